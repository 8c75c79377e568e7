"""The server's side of RFC 6455 and RFC 7692, without a socket, a loop or a framework.

==============  ==================================================================
`frames`        heads, and the payload of close frames (RFC 6455, section 5)
`masks`         the mask of a client's frames (section 5.3)
`pieces`        a message that comes in pieces; UTF-8, octet by octet (section 8.1)
`deflate`       permessage-deflate (RFC 7692)
`opening`       the check of the opening handshake, and the answers (section 4.2)
`connection`    bytes in, messages out; fragments, control frames, the closing handshake
`keepalive`     pings, and when a silent peer counts as gone (section 5.5.2)
`carrier`       what a socket must give
`options`       those of a connection: pings and compression
`driver`        a `Connection` on a carrier: pauses, back-pressure, the end
`transport`     the verbs of `unisock.transport.Transport` on all that
==============  ==================================================================

An adapter for a raw socket brings its carrier, its handshake data and its routes.
"""
