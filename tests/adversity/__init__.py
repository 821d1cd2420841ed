"""What must hold when processes die, stop, are cancelled or run out of something.

Who plays in it:

==================== =======================================================================================
the kills            ``test_kill`` ends scans with SIGKILL at random instants. ``fork_server`` is a process
                     that has imported everything and forks a child for each scan (a ``Job``, of ``jobs``), so
                     that a kill costs milliseconds. A ``World`` (``world``; ``search_world`` for documents)
                     changes the source, knows what was ever there, and says after each scan what the target
                     may hold. It sees both through a ``Look`` (``looks``), as a reader from outside would.
the lives            ``test_model`` plays random lives of a pipeline against an ``oracle``: a source that can
                     be foretold, a disk that can crash, and what each mode promises.
the cancellations    ``test_cancel`` and ``test_mysql_cancel`` end a scan at every one of its ``steps``.
two owners           ``owner`` is a process that runs a pipeline on schedule; the tests freeze it, let another
                     one take over, and wake it up.
bad lines            ``test_mysql_proxy``, ``test_*_lost``: the proxy of ``tests/servers`` cuts a line after any
                     byte; a server is killed and started again. ``statements`` acts right before a statement
                     reaches a server, or right after its answer; ``feed`` is the table that goes over it all.
full and busy        ``test_faults``, ``test_mysql_busy``: disks are full, tables are locked, rights are gone.
==================== =======================================================================================

``patches`` holds what takes the place of a clock or of a pause. How many kills and lives there are goes with the tier
(``tests/tiers.py``); each test prints its seed.
"""
