"""A module for each framework: its rows of the matrix, and the application that they serve.

``ROWS`` are read in the test run, where nothing of a framework may be imported.
``serve(server, port)`` runs in the process of a row's server.  These are also the
examples for a third party's row and its server process.

Each application has every handler of the suite, a page at ``/page`` and another
beside the handler at ``/mounting/both``, middleware that leaves something for the
handler, the forms in which routes are registered by hand, itself once more below
``/prefix``, a hook of the framework's that tells of errors that reach it, and an
error handler for `OwnError`.  A proxy's ``X-Forwarded-For``, ``-Proto`` and
``-Prefix`` are believed, by what the server or the framework has for that.
"""
