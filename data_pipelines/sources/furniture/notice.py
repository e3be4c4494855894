"""The NOTICE beside the furniture corpus: whose models these are, under which licences, and what was changed."""

from collections.abc import Sequence

from data_pipelines import packages
from data_pipelines.sources.furniture.catalog import Model

_HEAD = """\
The models drawn in this folder are not the work of this project. They come from the Debian package {name} {version}
({home}). Changes made: each model was turned and stretched as its catalogue says and drawn from eight sides, its depth
was written as grey, names were put in lower case and a few corrected. The authors and licence of every model stand in
models.tsv; those under a CC-BY licence ask to be named wherever the pictures are passed on.
"""
_HOLDERS = {
    "BlendSwap-CC-0.sh3f": "contributors of Blend Swap (given to the public domain)",
    "BlendSwap-CC-BY.sh3f": "contributors of Blend Swap",
    "KatorLegaz.sh3f": "Copyright 2003-2008 Andrew Kator & Jennifer Legaz",
    "Reallusion.sh3f": "Copyright 2008-2016 Reallusion, http://www.reallusion.com",
    "Scopia.sh3f": "Copyright Emmanuel Puybaret / eTeks <info@eteks.com> and Scopia Visual Interfaces Systems, s.l., "
    "http://www.scopia.es",
}
_LICENCES = {
    "CC0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "CC-BY-3.0": "https://creativecommons.org/licenses/by/3.0/",
    "CC-BY-3.0-US": "https://creativecommons.org/licenses/by/3.0/us/",
}


def notice(models: Sequence[Model]) -> str:
    """The text for a corpus of `models`: their libraries with holder, licence and number of models, and the authors."""
    lines = []
    for library in sorted({model.library for model in models}):
        own = [model for model in models if model.library == library]
        licence, authors = own[0].licence, sorted({model.author for model in own}, key=str.lower)
        holder = _HOLDERS.get(library, "see models.tsv")
        lines += [f"{library}: {len(own)} models, {licence} ({_LICENCES[licence]})", f"  {holder}"]
        lines += [f"  authors: {', '.join(authors)}", ""]
    return "\n".join([_HEAD.format(**packages.FURNITURE.origin()), *lines])
