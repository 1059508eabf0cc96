"""nginx and Caddy before a server, configured as a page of the documentation says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from tests.processes import Process, Server


class Proxy(Process):
    """A proxy before a server, with the configuration that a page has in its language."""

    language: ClassVar[str]

    def __init__(self, page: Path, upstream: Server) -> None:
        super().__init__()
        self.upstream = upstream
        text = page.read_text(encoding="utf-8")
        found = re.search(rf"```{self.language}\n(.*?)```", text, re.DOTALL)
        assert found is not None, f"{page.name} says nothing of {self.name}"
        self.configure(replaced(found[1], ("127.0.0.1:8080", f"127.0.0.1:{upstream.port}")))

    def configure(self, site: str) -> None:
        """Writes the configuration: the page's, which is before the server already."""
        raise NotImplementedError


class Nginx(Proxy):
    """nginx, in its own folder."""

    name = language = "nginx"

    def write(self, site: str) -> None:
        """Its whole configuration, with what goes around a site."""
        folders = "\n".join(
            f"{kind}_temp_path {self.folder / kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (self.folder / "nginx.conf").write_text(
            f"daemon off; pid {self.folder / 'pid'}; error_log stderr;\nevents {{}}\n"
            f"http {{ access_log off;\n{folders}\n{site} }}\n",
            encoding="utf-8",
        )

    def command(self) -> Sequence[str]:
        return ["nginx", "-e", "stderr", "-p", str(self.folder), "-c", "nginx.conf"]


class Caddy(Proxy):
    """Caddy, which keeps nothing outside its folder."""

    name = "caddy"
    language = "caddyfile"

    def write(self, site: str, options: str = "") -> None:
        """Its whole configuration, with these options and those of every test."""
        (self.folder / "Caddyfile").write_text(
            f"{{\n\tadmin off\n\tgrace_period 1s\n{options}}}\n{site}", encoding="utf-8"
        )

    def command(self) -> Sequence[str]:
        return ["caddy", "run", "--adapter", "caddyfile", "--config", "Caddyfile"]

    def environment(self) -> Mapping[str, str]:
        return {**super().environment(), "HOME": str(self.folder)}


def replaced(text: str, *changes: tuple[str, str]) -> str:
    """Each once or more: what is not there any more is not tested either."""
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return text
