"""Pages read back: do they nest, is what they name there, does it decode?"""

import subprocess
from html.parser import HTMLParser
from urllib.parse import unquote

from PIL import Image

VOID = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


class Page(HTMLParser):
    """Fails on tags that do not nest; collects references and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.references, self.ids, self.words = [], [], set(), []
        self.feed(text)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names)), f"an attribute twice in {tag}"
        given = dict(attributes)
        self.references += [(tag, given[k]) for k in ("src", "href") if given.get(k)]
        self.ids.add(given.get("id"))
        if tag == "img":
            assert given["alt"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> without a beginning"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def media(page, folder):
    """Every file that a page refers to, which must be there and decode."""
    files = []
    for tag, reference in page.references:
        if reference.startswith("#"):
            assert reference[1:] in page.ids
            continue
        assert "://" not in reference, "the page must work without a network"
        path = folder / unquote(reference)
        assert path.is_file(), path
        files.append(path)
        if tag in ("audio", "video"):
            decodes(path, tag)
        elif path.suffix == ".png":
            Image.open(path).verify()
    return files


def decodes(path, kind):
    probe = ["ffprobe", "-v", "error", "-show_entries", "stream=codec_type", "-of", "csv=p=0", str(path)]
    done = subprocess.run(probe, capture_output=True, text=True, check=True)
    assert kind in done.stdout
    assert not done.stderr
