"""Answers of a hub to the requests of huggingface_hub, without sockets and faults.

The real hub's ways: the metadata of a gated repository is public and its files are not; a missing
repository is 401 without a token and 404 with one; ``X-Error-Code`` tells the client what is
missing; files in LFS are a redirect to another host, the CDN, whose signed address needs no token
and whose answers have none of the hub's headers. Headers of Xet storage are never sent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tests.support.hub.repository import Entry, Repository


@dataclass
class Reply:
    """An answer before ranges are applied.

    Attributes:
        path: What faults and the log know the request by.
        file: The body; ``body`` is it otherwise.
    """

    path: str
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    file: Entry | None = None


@dataclass(frozen=True)
class Site:
    """The state of a hub that routes need.

    Attributes:
        repositories: By name.
        url: Address of the hub, without a slash at its end.
        cdn_url: Address of the CDN, likewise.
        page_size: Items of a page of a tree.
        invalid_tokens: Tokens that were revoked.
    """

    repositories: Mapping[str, Repository]
    url: str
    cdn_url: str
    page_size: int
    invalid_tokens: frozenset[str]


def error(path: str, status: int, message: str, code: str | None = None) -> Reply:
    """An error as the hub words it, in headers and body."""
    headers = {"Content-Type": "application/json", "X-Error-Message": message}
    if code is not None:
        headers["X-Error-Code"] = code
    return Reply(path, status, headers, json.dumps({"error": message}).encode())


def answer_hub(site: Site, method: str, url: str, token: str | None, body: bytes) -> Reply:
    """The answer of the hub itself.

    Args:
        url: Path and query.
        token: The bearer token.
        body: Of a POST.
    """
    parts = urlsplit(url)
    segments = [unquote(part) for part in parts.path.strip("/").split("/")]
    query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    if len(segments) > 4 and segments[2] == "resolve":
        name, path, needs_file = "/".join(segments[:2]), "/".join(segments[4:]), True
    elif len(segments) > 3 and segments[:2] == ["api", "models"]:
        name, path, needs_file = "/".join(segments[2:4]), unquote(parts.path), False
    else:
        return error(unquote(parts.path), 404, "Sorry, we can't find the page you are looking for.")
    repository = site.repositories.get(name)
    if token in site.invalid_tokens:
        return error(path, 401, "Invalid credentials in Authorization header")
    if repository is None or (repository.access == "private" and token not in repository.tokens):
        status = 401 if token is None else 404
        return error(path, status, "Repository not found", "RepoNotFound")
    if needs_file:
        return _file(site, repository, segments[3], path, token)
    return _api(site, repository, segments[4:], query, parts.path, token, method, body)


def answer_cdn(site: Site, url: str) -> Reply:
    """The answer of the CDN: ``/org/name/sha256/path`` for what was ever in that repository."""
    segments = [unquote(part) for part in urlsplit(url).path.strip("/").split("/")]
    name, sha256, path = "/".join(segments[:2]), "".join(segments[2:3]), "/".join(segments[3:])
    repository = site.repositories.get(name)
    entry = repository.by_sha256.get(sha256) if repository else None
    if entry is None:
        return error(path, 403, "AccessDenied")
    headers = {"ETag": entry.etag, "Content-Type": "application/octet-stream"}
    return Reply(path, 200, headers, file=entry)


def _file(site: Site, repository: Repository, revision: str, path: str, token: str | None) -> Reply:
    if repository.access == "gated" and token not in repository.tokens:
        if token is None:
            message = f"Access to model {repository.name} is restricted. Please log in."
            return error(path, 401, message, "GatedRepo")
        message = f"Access to model {repository.name} is restricted and you are not on its list."
        return error(path, 403, message, "GatedRepo")
    commit = repository.resolve(revision)
    if commit is None:
        return error(path, 404, f"Invalid rev id: {revision}", "RevisionNotFound")
    entry = repository.commits[commit].get(path)
    if entry is None:
        reply = error(path, 404, "Entry not found", "EntryNotFound")
        reply.headers["X-Repo-Commit"] = commit
        return reply
    headers = {"X-Repo-Commit": commit, "ETag": entry.etag, "Content-Type": "text/plain"}
    if not entry.lfs:
        return Reply(path, 200, headers, file=entry)
    location = f"{site.cdn_url}/{repository.name}/{entry.sha256}/{quote(path)}?Signature=fake"
    headers |= {"Location": location, "X-Linked-Size": str(entry.size), "X-Linked-ETag": entry.etag}
    # The hub's own ETag of a redirect is not that of the file.
    headers["ETag"] = f'"{len(location)}-redirect"'
    return Reply(path, 302, headers, f"Found. Redirecting to {location}".encode())


def _api(
    site: Site,
    repository: Repository,
    rest: list[str],
    query: dict[str, str],
    url_path: str,
    token: str | None,
    method: str,
    body: bytes,
) -> Reply:
    path = unquote(url_path)
    what = rest[0] if rest else "revision"
    if what == "refs":
        return _json(path, _refs(repository))
    if what == "auth-check":
        if repository.access == "gated" and token not in repository.tokens:
            return error(path, 401 if token is None else 403, "Access is restricted", "GatedRepo")
        return _json(path, {})
    revision = rest[1] if len(rest) > 1 else "main"
    commit = repository.resolve(revision)
    if commit is None:
        return error(path, 404, f"Invalid rev id: {revision}", "RevisionNotFound")
    files = repository.commits[commit]
    if what == "revision":
        return _json(path, _info(repository, commit, blobs=query.get("blobs", "") == "true"))
    if what == "paths-info" and method == "POST":
        wanted = parse_qs(body.decode()).get("paths", [])
        return _json(path, [files[name].listing() for name in wanted if name in files])
    if what == "tree":
        items = repository.tree(commit, "/".join(rest[2:]), query.get("recursive", "") == "true")
        if items is None:
            return error(path, 404, "Entry not found", "EntryNotFound")
        start = int(query.get("cursor", 0))
        page = items[start : start + site.page_size]
        reply = _json(path, page)
        if start + len(page) < len(items):
            recursive = query.get("recursive", "false")
            following = f"{url_path}?recursive={recursive}&cursor={start + len(page)}"
            reply.headers["Link"] = f'<{site.url}{following}>; rel="next"'
        return reply
    return error(path, 404, "Sorry, we can't find the page you are looking for.")


def _json(path: str, data: Any) -> Reply:
    body = json.dumps(data).encode()
    return Reply(path, 200, {"Content-Type": "application/json; charset=utf-8"}, body)


def _info(repository: Repository, commit: str, *, blobs: bool) -> dict[str, Any]:
    siblings: list[dict[str, Any]] = []
    for path, entry in sorted(repository.commits[commit].items()):
        item: dict[str, Any] = {"rfilename": path}
        if blobs:
            item |= {"size": entry.size, "blobId": entry.git_sha}
            if entry.lfs:
                item["lfs"] = {"sha256": entry.sha256, "size": entry.size}
                item["lfs"]["pointerSize"] = entry.pointer_size
        siblings.append(item)
    return {
        "id": repository.name,
        "modelId": repository.name,
        "author": repository.name.split("/")[0],
        "sha": commit,
        "private": repository.access == "private",
        "gated": "manual" if repository.access == "gated" else False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "siblings": siblings,
    }


def _refs(repository: Repository) -> dict[str, Any]:
    def items(kind: str, names: dict[str, str]) -> list[dict[str, str]]:
        return [
            {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": commit}
            for name, commit in sorted(names.items())
        ]

    return {
        "branches": items("heads", repository.branches),
        "tags": items("tags", repository.tags),
        "converts": [],
    }
