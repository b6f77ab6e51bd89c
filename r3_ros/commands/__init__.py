"""The subcommands of ``r3``: one module each, with ``register(subparsers)`` and ``run(args)``."""
