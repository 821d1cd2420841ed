"""Routes: pairs of systems that the suites by behaviour run over.

A system is an ``End`` of some forty lines (``ends``): how a table is made there, changed and looked at, in words that
all systems share. Any two of them are a ``Route``. Who adds a connector adds an end and names its routes in ``fixtures``,
and the suites of ``tests/acceptance`` that ask for ``route`` hold it to all that users have met elsewhere.
"""
