"""How good probabilities are: AUC, normalized entropy, calibration and GAUC, with intervals.

Pure functions over arrays come first (``auc``, ``gauc``, ``normalized_entropy``, ``calibration``,
``bootstrap``, ``lift``); ``score_sums``, ``score_histogram``, ``window`` and ``predictions`` are
what they need kept in memory; ``task_metrics`` puts them together for one probability. numpy only.
"""
