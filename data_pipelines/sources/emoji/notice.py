"""The NOTICE of the bundled fixture: who drew what, under which licence, and what was changed."""

from collections.abc import Iterable

from data_pipelines.sources.emoji import packages
from data_pipelines.sources.emoji.styles import PACKAGES, REDISTRIBUTABLE

_HEAD = """\
The drawings and names in this folder are not the work of this project. They come from the sets below, under the
licences named. Changes made: each drawing was rendered to 64 x 64 pixels and stored lossily in sheets; names and
keywords were copied in part. The folder is written by `python -m data_pipelines.sources.emoji.fixture`.
"""

_MIT = """\
MIT License

Copyright (c) Microsoft Corporation.                 (the Fluent sets)
Copyright (c) LobeHub                                (the package of the fluent_3d pictures)
Copyright (c) 2017-2019 Miles Johnson                (emojibase-data)

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""

_APACHE = """\
Apache License, Version 2.0

Copyright 2013 Google, Inc. All Rights Reserved.     (the Noto sets)

Licensed under the Apache License, Version 2.0 (the "License"); you may not use these files except in compliance with
the License. A copy of the License is the file LICENSE at the top of this project, and is at
http://www.apache.org/licenses/LICENSE-2.0

Unless required by applicable law or agreed to in writing, software distributed under the License is distributed on an
"AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the License for the
specific language governing permissions and limitations under the License.
"""


def notice(styles: Iterable[str]) -> str:
    """The text for pictures of `styles`. Raises ValueError for a style whose licence is not MIT or Apache-2.0."""
    lines = []
    for name, package in [*((style, PACKAGES[style]) for style in styles), ("names, keywords", packages.NAMES)]:
        if package.licence not in REDISTRIBUTABLE:
            raise ValueError(f"{name} is under {package.licence}: its pictures must not be bundled")
        lines.append(f"{name}: {package.name} {package.version}, {package.author}, {package.licence}, {package.home}")
    rule = "-" * 100
    return "\n".join([_HEAD, *lines, "", rule, _MIT, rule, _APACHE])
