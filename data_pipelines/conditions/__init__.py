"""Control pictures made from a picture: edges, depth, masks, line drawings (paper section 3.2, control rows, Table 1).

`edges` and `mask` need no network and no library but numpy: corpora in memory use them (plain.py). Networks make the
rest (extract.py), planes.py turns what they give into maps, and `python -m data_pipelines.conditions IMAGE OUT.png`
shows them all.
"""

from data_pipelines.conditions.plain import edges, mask

__all__ = ["edges", "mask"]
