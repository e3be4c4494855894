"""The packages of the emoji corpus, pinned by version and sha256; data_pipelines/packages.py fetches them.

The table below is the whole provenance of the corpus (it stands in for the paper's unreleased stage-2 datasets,
section 4.1): package, version, checksum, author and licence. Nothing is trusted that does not match its checksum.
"""

from data_pipelines.packages import Package


def _npm(name: str, version: str, sha256: str, author: str, licence: str, home: str) -> Package:
    archive = f"{name.lstrip('@').replace('/', '-')}-{version}.tgz"  # `npm pack`: scope and slash become one dash
    return Package("npm", name, version, archive, sha256, author, licence, home)


_MICROSOFT = ("Microsoft Corporation", "MIT", "https://github.com/microsoft/fluentui-emoji")
_GOOGLE = ("Google Inc", "Apache-2.0", "https://github.com/googlefonts/noto-emoji")
_EMOJI_ONE = ("Emoji One", "CC-BY-4.0", "https://github.com/EmojiTwo/emojitwo")

NAMES = _npm(
    "emojibase-data",
    "17.0.0",
    "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
    "Miles Johnson",
    "MIT",
    "https://github.com/milesj/emojibase",
)
FLUENT_3D = _npm(
    "@lobehub/fluent-emoji-3d",
    "1.1.0",
    "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
    *_MICROSOFT,
)
FLUENT_COLOR = _npm(
    "@iconify-json/fluent-emoji",
    "1.2.7",
    "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b",
    *_MICROSOFT,
)
FLUENT_FLAT = _npm(
    "@iconify-json/fluent-emoji-flat",
    "1.2.6",
    "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
    *_MICROSOFT,
)
FLUENT_HC = _npm(
    "@iconify-json/fluent-emoji-high-contrast",
    "1.2.6",
    "0b92d48c90d2200bd499e3cdd09a127ca6a8c8ddefd34c35eb5a1e4994012ae0",
    *_MICROSOFT,
)
NOTO = _npm("@iconify-json/noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad", *_GOOGLE)
NOTO_BLOB = _npm(
    "@iconify-json/noto-v1", "1.2.5", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37", *_GOOGLE
)
TWEMOJI = _npm(
    "@iconify-json/twemoji",
    "1.2.5",
    "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
    "Twitter",
    "CC-BY-4.0",
    "https://github.com/jdecked/twemoji",
)
EMOJIONE = _npm(
    "@iconify-json/emojione", "1.2.3", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e", *_EMOJI_ONE
)
EMOJIONE_MONO = _npm(
    "@iconify-json/emojione-monotone",
    "1.2.1",
    "40b90004bafb406b59266155ef9b7e1dd67bf2947fc8db8d07388776f4d0d04e",
    *_EMOJI_ONE,
)
OPENMOJI = _npm(
    "openmoji",
    "17.0.0",
    "55ee7d13485dec86e9f38c1f3a645a13382d33ff97c0cd845ee824b0aef45e68",
    "OpenMoji, HfG Schwaebisch Gmuend",
    "CC-BY-SA-4.0",
    "https://openmoji.org",
)
FXEMOJI = _npm(
    "@iconify-json/fxemoji",
    "1.2.2",
    "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef",
    "Mozilla",
    "CC-BY-4.0",  # the package says Apache-2.0, but upstream grants that for the code only: the art is CC-BY
    "https://github.com/mozilla/fxemoji",
)
