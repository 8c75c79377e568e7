"""Section 1 of the contract: a handler, and how it is mounted."""

from __future__ import annotations

import functools

import unisock
from unisock import SyncWebSocket, WebSocket, WebSocketEndpoint

from .harness import VARIABLE, Server, clause, mounted

# 1.1 What a handler is


@mounted("/mounting/function")
async def greet(ws: WebSocket, greeting: str = "function") -> None:
    """Say which handler this is."""
    await ws.accept()
    await ws.send_text(greeting)


class Greeter:
    """An object that can be called, and that has a method."""

    def __init__(self, greeting: str) -> None:
        self.greeting = greeting

    async def __call__(self, ws: WebSocket) -> None:
        """Say which handler this is."""
        await greet(ws, self.greeting)

    async def method(self, ws: WebSocket) -> None:
        """Say which handler this is."""
        await greet(ws, f"method of {self.greeting}")


mounted("/mounting/object")(Greeter("object"))
mounted("/mounting/method")(Greeter("object").method)
mounted("/mounting/partial")(functools.partial(greet, greeting="partial"))


@clause("1.1")
async def test_a_handler_is_anything_async_of_one_argument(server: Server) -> None:
    """A function, a callable object, a method, a partial."""
    handlers = {"object": "object", "method": "method of object"}
    for path in ("function", "object", "method", "partial"):
        async with server.connect(f"/mounting/{path}") as client:
            assert await client.recv() == handlers.get(path, path)
            assert await client.closed() == (1000, "")


# 1.2 mount()


@mounted("/mounting/rooms/{room}")
async def tell_room(ws: WebSocket) -> None:
    """Answer with the room; servers put it on routers and register it by hand, too."""
    await ws.accept()
    await ws.send_json([ws.path_params["room"], str(ws.url.path)])


async def _check_room(server: Server, template: str) -> None:
    for sent, room in (("kitchen", "kitchen"), ("a%20b%C3%BC", "a b\u00fc")):
        async with server.connect(template.format(sent)) as client:
            path = template.format(room)
            assert await client.recv() == f'["{room}","{path}"]', template


@clause("1.2")
async def test_mounted_on_an_application_and_on_its_routers(server: Server) -> None:
    """`mount` takes the application and each kind of its routers."""
    if server.row.without("mount"):
        message = ""
        try:
            unisock.mount(object(), "/", tell_room)
        except TypeError as exc:
            message = str(exc)
        assert "fastapi" in message
        assert "starlette" in message
    for template in ("/mounting/rooms/{}", *server.row.routers.values()):
        await _check_room(server, template)


@clause("1.2")
async def test_http_works_beside_it(server: Server) -> None:
    """A page of the same application, before and after; a handler's path is no page."""
    for _ in range(2):
        response = await server.http("/page")
        assert (response.status, response.body) == (200, b"the page")
        mark = server.log_mark()
        response = await server.http("/mounting/function")
        assert response.status in (400, 404, 405, 426)
        assert "Traceback" not in await server.settled(mark)
        await _check_room(server, "/mounting/rooms/{}")


mounted("/mounting/both")(greet)


@clause("1.2")
async def test_a_page_at_the_path_of_a_handler(server: Server) -> None:
    """A handshake goes to the handler, any other request to the page."""
    for _ in range(2):
        response = await server.http("/mounting/both")
        if server.row.without("page_beside"):
            assert response.status in (400, 404, 405, 426)
        else:
            assert (response.status, response.body) == (200, b"the page")
        async with server.connect("/mounting/both") as client:
            assert await client.recv() == "function"


# 1.3 Paths


async def tell_parameter(ws: WebSocket) -> None:
    """Answer with the parameter's type and value."""
    await ws.accept()
    (value,) = ws.path_params.values()
    await ws.send_text(f"{type(value).__name__} {value}")


for _name in ("int", "float", "uuid", "path", "str"):
    mounted(f"/mounting/{_name}/{{value:{_name}}}")(tell_parameter)
mounted("/mounting/plain/{value}")(tell_parameter)
mounted("/mounting/amid/{value:int}/end")(tell_parameter)

_UUID = "c0ffee00-1234-4abc-8def-0123456789ab"
_MATCHING = {
    "int/0": "int 0",
    "int/0042": "int 42",
    "int/18446744073709551616": "int 18446744073709551616",
    "float/1.5": "float 1.5",
    "float/007": "float 7.0",
    f"uuid/{_UUID}": f"UUID {_UUID}",
    f"uuid/{_UUID.upper()}": f"UUID {_UUID}",
    f"uuid/{_UUID.replace('-', '')}": f"UUID {_UUID}",
    "path/a": "str a",
    "path/a/b.c/d%20e": "str a/b.c/d e",
    f"int/{'7' * 300}": f"int {'7' * 300}",
    f"float/{'9' * 300}": f"float {float('9' * 300)}",
    f"float/0.{'1' * 400}": f"float {1 / 9}",
    "path/a/": "str a/",
    "str/-7": "str -7",
    "plain/%7Bx%7D%C3%BC": "str {x}\u00fc",
    "amid/5/end": "int 5",
}
_NOT_MATCHING = (
    "int/-7",
    "int/+7",
    "int/7.0",
    "int/1_000",
    "int/x",
    f"int/{'1' * 301}",
    f"int/{'0' * 301}",
    f"int/{'1' * 4301}",
    "int/%EF%BC%97",  # a seven, and no ASCII digit
    "int/%207",
    "int/7%0A",
    "float/-1.5",
    "float/.5",
    "float/5.",
    "float/1e5",
    "float/nan",
    "float/inf",
    f"float/{'1' * 301}",
    f"float/{'9' * 400}.5",
    "uuid/c0ffee00",
    f"uuid/%7B{_UUID}%7D",
    f"uuid/{_UUID}0",
    "str/a/b",
    "/int/5",
    "int//5",
    "amid/5//end",
    "plain/a/b",
    "amid/x/end",
    "amid/5",
    "nowhere",
)


@clause("1.3")
async def test_converters_convert_what_matches(server: Server) -> None:
    """Each converter's matches arrive converted, and percent-decoded."""
    for path, expected in _MATCHING.items():
        async with server.connect(f"/mounting/{path}") as client:
            assert await client.recv() == expected, path


@clause("1.3")
async def test_what_a_converter_does_not_match_is_no_such_route(server: Server) -> None:
    """In the framework's own way, without an error in the log."""
    for path in (*(f"/mounting/{path}" for path in _NOT_MATCHING), "//mounting/int/5"):
        mark = server.log_mark()
        if server.row.without("no_route"):
            async with server.raw(path) as raw:
                assert (await raw.closed())[0] in (1005, 1006), path
                assert not raw.events()
        else:
            response = await server.handshake(path)
            assert response.status == server.row.no_route_status, path
        assert "Traceback" not in await server.settled(mark), path


# 1.4 By hand


@clause("1.4")
async def test_registered_in_the_frameworks_own_form(server: Server) -> None:
    """Each form in which a framework's users register routes."""
    assert server.row.by_hand, "a row names the paths that its server registered by hand"
    for template in server.row.by_hand.values():
        await _check_room(server, template)


# 1.6 Context variables


@mounted("/mounting/variables/function/{how}")
async def set_variable(ws: WebSocket) -> None:
    """Tell what the variable is, and set it."""
    await ws.accept()
    await ws.send_text(VARIABLE.get())
    VARIABLE.set("by the function")
    if ws.path_params["how"] == "fails":
        raise LookupError


@mounted("/mounting/variables/endpoint/{how}")
class SetVariable(WebSocketEndpoint):
    """Tell what the variable is, and set it in each hook."""

    async def on_connect(self, ws: WebSocket) -> None:
        seen = VARIABLE.get()
        VARIABLE.set("by on_connect")
        await ws.accept()
        await ws.send_text(seen)

    async def on_receive(self, ws: WebSocket, data: str | bytes) -> None:
        VARIABLE.set(f"{VARIABLE.get()}, by on_receive")
        if ws.path_params["how"] == "fails":
            raise LookupError
        await ws.close()

    async def on_disconnect(self, ws: WebSocket, close_code: int) -> None:
        VARIABLE.set(f"{VARIABLE.get()}, by on_disconnect")


@mounted("/mounting/variables/plain/{how}")
def set_variable_sync(ws: SyncWebSocket) -> None:
    """Tell what the variable is, and set it."""
    ws.accept()
    ws.send_text(VARIABLE.get())
    VARIABLE.set("by the plain function")
    if ws.path_params["how"] == "fails":
        raise LookupError


_VARIABLES = {
    "function": "by the function",
    "endpoint": "by on_connect, by on_receive, by on_disconnect",
    "plain": "by the plain function",
}


@clause("1.6")
async def test_context_variables_go_in_and_out(server: Server) -> None:
    """What was set before a handler it sees; what it sets is seen after it."""
    has_framework = not server.row.without("middleware")
    for form, expected in _VARIABLES.items():
        for how in ("returns", "fails"):
            async with server.connect(f"/mounting/variables/{form}/{how}") as client:
                assert await client.recv() == ("before" if has_framework else ""), form
                if form == "endpoint":
                    await client.send("go on")
                await client.closed()
            if has_framework:
                assert await client.journal("variable") == {"value": expected}, (form, how)
    await server.settled()  # the tracebacks are not the next test's
