"""Passwords and tokens in configs: masked in everything that is written, put back where they are used.

A config is masked as soon as it is composed: `http://me:secret@host` becomes `http://me:***@host`, and a key such as
`password` or `api_key` becomes `***`. What stood there is kept in an environment variable of this process, which the
processes that it starts inherit, and which is never written. `revealed` gives it back to whoever connects.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

from segkit.errors import UserError

MASK = "***"
VARIABLE = "SEGKIT_CREDENTIALS"
"""JSON: what was masked, by its key in the config and by its masked form."""

SHORTEST, SHORTEST_OF_ENVIRONMENT = 4, 8
"""Characters of a password from which on it is looked for in free text; shorter ones are found by their place."""

SECRET_NAME = re.compile(
    r"(?:password|passwd|passphrase|secret|credentials?|authorization)$"
    r"|(?:^|_)(?:pwd|pw|pass|(?:api|access|account|secret|private|auth|shared|storage)_?key)$"
    # The tokens of transformers are no secrets.
    r"|(?:^|(?<!cls)(?<!class)(?<!pad)(?<!mask)(?<!num)(?<!reg)(?<!register)(?<!dist)(?<!query)(?<!patch)_)token$"
)
NUMERIC = re.compile(r"(?:password|passwd|pwd|passphrase)$")
HOLDS_SECRETS = {"passwords", "secrets", "credentials"}
"""Keys whose whole content is masked."""

QUERY_NAMES = {"sig", "signature", "x_amz_signature", "x_goog_signature"}

LOGIN = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*)://(?P<login>(?:(?!://)\S)*)@")
ADDRESS_WITH_BLANKS = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*)://(?P<login>(?:(?!://).)*)@")
PORT = re.compile(r"\d{1,5}(?:$|[/?#\"')\]}\s])")
# As in the query of an address, a connection string (`Server=h;Pwd=x`) or, percent-encoded, one within an address.
PAIR = re.compile(r"(?<![\w.-])(?P<name>[\w.-]+)(?P<sign>=)(?P<value>'[^']*'|\"[^\"]*\"|[^\s&;,'\")\]}]+)")
ENCODED_PAIR = re.compile(
    r"(?:(?<=%3B)|(?<==))(?P<name>[\w.-]+)(?P<sign>%3D)(?P<value>(?:(?!%3B)[^\s&])+)", re.IGNORECASE
)
HEADER = re.compile(r"(?i)(?P<name>authorization)(?P<sign>[\"']?\s*[:=]\s*[\"']?\w+\s+)(?P<value>[^\s\"']+)")
REFUSED = r"(?i)\b401\b|\b403\b|no password supplied|password authentication failed|access denied|login failed"
"""How servers and databases say that they want a password, or another one."""

OVERRIDE = re.compile(r"(?P<head>[+~]{0,2}(?P<key>[\w@./-]+)=)(?P<value>.+)", re.DOTALL)
OAUTH = ("x-oauth-basic", "x-oauth")
"""Passwords that say that the name in front of them is the token."""


def is_secret_name(name: str) -> bool:
    """Whether a key, parameter or environment variable of this name holds a password, key or token."""
    *parents, last = re.split(r"[./@]", re.sub(r"\[\d+\]", "", name))
    return SECRET_NAME.search(_snake(last)) is not None or not HOLDS_SECRETS.isdisjoint(parents)


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().replace("-", "_")


def masked(value: Any, key: str = "", *, pairs: bool = True) -> Any:
    """`value` as it may be written: text, or any nesting of dicts and lists, without a password or token.

    Those of addresses (also in their query), of keys with such a name, and, wherever they stand, those of this
    process's config and environment. `key` is the name of `value` in the config. Without `pairs`, text such as
    `token=...` stays: source code is full of it.
    """

    def leaf(value: Any, key: str) -> Any:
        value = _masked_leaf(value, key, pairs=pairs)
        if isinstance(value, str):
            for secret in _known():
                value = secret.sub(MASK, value)
        return value

    return _mapped(value, key, leaf)


def holds_secret(text: str) -> bool:
    """Whether `text`, such as an address, has a password or token in it."""
    return _masked_leaf(text, "") != text


def hidden(value: Any, key: str = "") -> Any:
    """`value` with its passwords and tokens masked and kept, so that `revealed` gives them back."""
    found: dict[str, Any] = {}

    def leaf(value: Any, key: str) -> Any:
        shown = _masked_leaf(value, key)
        if shown != value:
            found.update({name: value for name in (key, shown) if name not in ("", MASK)})
        return shown

    shown = _mapped(value, key, leaf)
    if found:
        os.environ[VARIABLE] = json.dumps(_kept() | found)
    return shown


def hidden_in_override(text: str) -> str:
    """An override of the command line, `key=value`, as it may be written; it composes to what `hidden` gives."""
    override = OVERRIDE.fullmatch(text)
    real = _kept().get(override["key"]) if override else None
    if override is None or real is None or str(real) not in override["value"].replace("\\'", "'"):
        return _masked_leaf(text, "")
    shown = str(_masked_leaf(real, override["key"])).replace("'", "\\'")
    return f"{override['head']}'{shown}'"


def revealed(value: Any, key: str = "") -> Any:
    """`value` with what `hidden` took out of it.

    An address whose password is not known comes back masked: it may be had elsewhere, see `connectable`. Raises
    UserError for any other secret that is not known.
    """

    def leaf(value: Any, key: str) -> Any:
        if not isinstance(value, str) or MASK not in value:
            return value
        for name in (key, value):
            if name in _kept() and _masked_leaf(_kept()[name], key) == value:
                return _kept()[name]
        if value == MASK:
            raise UserError(f"{key}={MASK}: passwords and tokens are not kept; give it again with {key}=...")
        return value

    return _mapped(value, key, leaf)


def connectable(address: str, key: str) -> str:
    """An address to connect to: with its password, or without one where the client finds that by itself.

    Raises UserError, naming `key` and the environment variables, if the password is neither known nor to be found.
    """
    address = revealed(address, key)
    if MASK not in address:
        return address
    scheme = address.partition("://")[0].partition("+")[0]
    if scheme == "postgresql" and f":{MASK}@" in address:
        return address.replace(f":{MASK}@", "@")  # PGPASSWORD or ~/.pgpass
    if scheme in ("http", "https") and (os.environ.get("MLFLOW_TRACKING_PASSWORD") or _token()):
        _, login, place = re.split(r"://(.*)@", address, maxsplit=1)
        user = login.partition(":")[0]
        if user != MASK and not _token():
            os.environ.setdefault("MLFLOW_TRACKING_USERNAME", user)
        return f"{address.partition('://')[0]}://{place}"
    raise UserError(f"{key}={address}: its password is not kept; {how_to_give(address)}")


def how_to_give(address: str) -> str:
    """What to do about a password that is missing or refused."""
    scheme = address.partition("://")[0].partition("+")[0]
    again = "give the address again with its password"
    if scheme in ("http", "https"):
        return f"set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, or {again}"
    return f"set PGPASSWORD, or write ~/.pgpass, or {again}" if scheme == "postgresql" else again


def _token() -> str | None:
    return os.environ.get("MLFLOW_TRACKING_TOKEN")


def _mapped(value: Any, key: str, leaf: Callable[[Any, str], Any]) -> Any:
    if isinstance(value, Mapping):
        return {name: _mapped(item, f"{key}.{name}" if key else str(name), leaf) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_mapped(item, f"{key}[{index}]", leaf) for index, item in enumerate(value))
    return leaf(value, key)


def _masked_leaf(value: Any, key: str, *, pairs: bool = True, found: list[str] | None = None) -> Any:
    """`value` masked by what can be seen in it and in its key; adds the secrets to `found`."""
    if isinstance(value, int | float) and not isinstance(value, bool) and NUMERIC.search(_snake(key)):
        return MASK
    if not isinstance(value, str):
        return value
    if is_secret_name(key) and _is_secret(value):
        _note(found, value)
        return MASK
    override = OVERRIDE.fullmatch(value) if pairs else None
    if override and is_secret_name(override["key"]) and _is_secret(override["value"]):
        _note(found, override["value"].strip("'\""))
        return override["head"] + MASK
    if "@" in value:
        starts_as_address = ADDRESS_WITH_BLANKS.match(value) is not None and value.count("://") == 1
        login = ADDRESS_WITH_BLANKS if starts_as_address else LOGIN
        value = login.sub(lambda match: _masked_login(match, found), value)
    if pairs and ("=" in value or "%3D" in value or ":" in value):
        for pattern in (PAIR, ENCODED_PAIR, HEADER):
            value = pattern.sub(lambda match: _masked_pair(match, found), value)
    return value


def _masked_login(match: re.Match[str], found: list[str] | None) -> str:
    scheme, login = match["scheme"], match["login"]
    is_web = scheme.lower() in ("http", "https", "git+https", "git+http")
    place = re.split(r"[/?#]", f"{login}@", maxsplit=1)[0]
    if "@" in place:
        login = place.rpartition("@")[0]
    elif ":" not in place or PORT.match(login.partition(":")[2]):
        return match[0]  # the @ stands behind the host
    rest = match[0][len(f"{scheme}://{login}") :]
    user, _, password = login.partition(":")
    if re.fullmatch(r"\$\{.*\}|\*{3}", password or user):
        return match[0]
    if password and password not in OAUTH:
        _note(found, password)
        return f"{scheme}://{user}:{MASK}{rest}"
    if not is_web or not user:
        return match[0]
    _note(found, user)
    return f"{scheme}://{MASK}{rest}"


def _masked_pair(match: re.Match[str], found: list[str] | None) -> str:
    name, value = match["name"], match["value"].strip("'\"")
    named = is_secret_name(name) or _snake(name) in QUERY_NAMES or name.lower() == "authorization"
    if not named or not _is_secret(value):
        return match[0]
    _note(found, value)
    return f"{name}{match['sign']}{MASK}"


def _is_secret(value: str) -> bool:
    # An interpolation says where it is to be found, and is resolved before it is used.
    return value not in ("", "???", MASK, "null", "None", "true", "false") and not re.fullmatch(r"\$\{.*\}", value)


def _note(found: list[str] | None, secret: str) -> None:
    if found is not None:
        found.append(secret)


def _kept() -> dict[str, Any]:
    return _parsed(os.environ.get(VARIABLE, "{}"))


@functools.lru_cache(maxsize=4)
def _parsed(text: str) -> dict[str, Any]:
    return json.loads(text)


def _known() -> tuple[re.Pattern[str], ...]:
    return _patterns(os.environ.get(VARIABLE, "{}"))


@functools.lru_cache(maxsize=4)
def _patterns(kept: str) -> tuple[re.Pattern[str], ...]:
    """Every secret of the config and of the environment, to be looked for as a whole word; the longest first."""
    found: list[str] = []
    for key, value in _parsed(kept).items():
        if _masked_leaf(value, key, found=found) == MASK and not isinstance(value, str):
            found.append(str(value))
    found = [secret for secret in found if len(secret) >= SHORTEST]
    outside: list[str] = []
    for name, value in os.environ.items():
        if name not in (VARIABLE, "PWD"):
            _masked_leaf(value, name, found=outside)
    found += [secret for secret in outside if len(secret) >= SHORTEST_OF_ENVIRONMENT]
    words = {word for secret in found for word in (secret, unquote(secret))}
    return tuple(
        re.compile(rf"(?<!\w){re.escape(word)}(?!\w)") for word in sorted(words, key=lambda word: (-len(word), word))
    )
