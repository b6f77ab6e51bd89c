"""Results of the official networks against ours: the golden files of ``r3 parity``.

A golden file holds inputs and what the authors' code made of them, with made-up weights that a
script computes from their names. ``golden`` reads a file, ``arrays`` knows what its arrays mean,
``network_runs``, ``pose_runs`` and ``preprocess_runs`` compute the same with our code, as do
``pose_rule_runs``, ``scale_runs`` and ``streaming_runs`` for what follows after the network;
``comparison`` judges the difference by ``tolerances``, and ``runner`` goes through a folder. See
docs/parity.md.
"""
