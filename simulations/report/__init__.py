"""Pages to look at: one run over its time, or the table of a sweep; each is one file without outside assets.

A collector watches a run (:mod:`simulations.report.members`, :mod:`simulations.report.nodes`) and tells a
:class:`simulations.report.story.Story`, which keeps what a page needs within bounds. Neither plans anything
nor draws chance, so a run that is watched is the same run, byte for byte.
"""
