"""What a command says of a mistake: one message that names the key or the file, what was found and what is allowed."""

from __future__ import annotations

import difflib
import re
import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segkit.cli.options import Options, as_name
from segkit.config.findings import unknown_key
from segkit.config.overrides import parsed, quoted
from segkit.errors import RunFailure, UserError, printable

UNKNOWN = re.compile(r"Could not (?:append to config|delete from config|override|delete).*?'([^'@]+)")


def is_users(error: Exception) -> bool:
    """Whether what Hydra raised is about what the user wrote: command line or config files, not a run."""
    if isinstance(error, UserError | HydraException | OmegaConfBaseException):
        return True
    frames = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    return "load_configuration" in frames or frames[-1] in ("_run_hydra", "_get_rerun_conf")


def is_of_output(error: Exception) -> bool:
    """Whether Hydra could not write the folder of a run, before the run itself began."""
    frames = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    return any(isinstance(cause, OSError) and cause.filename for cause in _causes(error)) and "single_run" not in frames


def of_output(error: Exception) -> str:
    """The message for an error of which `is_of_output` is true."""
    cause = next(cause for cause in _causes(error) if isinstance(cause, OSError) and cause.filename)
    key = "hydra.sweep.dir" if {"-m", "--multirun"} & set(sys.argv) else "hydra.run.dir"
    given = [override for override in sys.argv[1:] if override.startswith((f"{key}=", "paths.output_dir="))]
    place = f"{given[-1]}: " if given else ""
    return printable(
        f"{place}{cause.filename} cannot be written ({cause.strerror or cause}). "
        f"Choose another place with {key}=FOLDER, or with paths.output_dir=FOLDER for all that is written"
    )


def explained(error: Exception, config_name: str, options: Options) -> str:
    """The message for `error`, of which `is_users` is true, or a RunFailure."""
    overrides = sys.argv[1:]
    if isinstance(error, UserError | RunFailure):
        return "\n".join(_with_hint(line, overrides, options) for line in str(error).splitlines())
    if isinstance(error, RecursionError):
        return "the defaults lists of the config files go in a circle: an option chooses itself, or its own group"
    for cause in _causes(error):
        match cause:
            case yaml.YAMLError():
                return _of_yaml(cause)
            case UnicodeDecodeError():
                return _of_encoding(cause, overrides, options)
            case OverrideParseException():
                return _of_grammar(cause.override, cause.message)
            case MissingConfigException() if cause.missing_cfg_file and "/" in cause.missing_cfg_file:
                names = cause.options or options.names(cause.missing_cfg_file.rpartition("/")[0])
                return _of_option(cause.missing_cfg_file, names, overrides, options)
            case _:
                pass
    text = str(error).strip()
    for found in (
        _of_several_values(text, options),
        _of_no_option(text, overrides, options),
        _of_key(text, config_name, overrides, options),
        _of_wrong_kind(error, overrides),
    ):
        if found:
            return found
    return _shortened(error)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _shortened(error: Exception) -> str:
    """What Hydra or OmegaConf say, without the places in their own code, and their causes, each once."""
    lines: list[str] = []
    for cause in _causes(error):
        text = str(cause).partition("\nConfig search path:")[0].strip()
        text = re.sub(r"\n\s+(full_key|object_type|reference_type)[:=].*", "", text)
        key = getattr(cause, "full_key", None)
        text = f"{key}: {text}" if key else text
        if text and not any(text in line for line in lines):
            lines.append(text)
    return printable("\n".join(lines)) or type(error).__name__


def as_text(key: str, value: str) -> str:
    """What to type in a shell so that `value` is taken as text, whatever Hydra's grammar would make of it."""
    plain = '"' not in value and "\\" not in value
    value = value.replace("${", "\\${")
    return shlex.quote(f'{key}="{value}"' if plain else f"{key}={quoted(value)}")


def _with_hint(line: str, overrides: Sequence[str], options: Options) -> str:
    """A finding about the composed config, with what to do if it comes of how the value or the option was given."""
    key, separator, finding = line.partition(": ")
    given = [override.partition("=")[2] for override in overrides if override.lstrip("+").partition("=")[0] == key]
    if not separator or not given:
        return line
    if "valid string" in finding and given[-1] != "null":
        return f"{line}. As text, type: {as_text(key, given[-1])}"
    if finding.startswith("nothing reads this key") and options.names(key):
        return (
            f"{key}={given[-1]}: its keys have gone to {key}.*, where nothing reads them. A file whose keys are meant "
            "for the whole config begins with the line '# @package _global_', without a byte-order mark before it"
        )
    return f"{key}={given[-1]}: {finding}" if options.names(key) else line


def _of_yaml(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or error)
    place = f"{mark.name}, line {mark.line + 1}" if mark is not None else str(getattr(error, "name", "a config file"))
    if "'\\t'" in problem:
        problem += "; indent with spaces, not with tabs"
    elif "constructor for the tag" in problem:
        problem += "; a config holds plain values, and tags that make objects are refused"
    elif "duplicate key" in problem:
        problem += ": give it once"
    return printable(f"{place}: not valid YAML: {problem}")


def _of_encoding(error: UnicodeDecodeError, overrides: Sequence[str], options: Options) -> str:
    chosen = {override.partition("=")[2] for override in overrides}
    for file in sorted(options.files(), key=lambda file: file.stem not in chosen):
        try:
            file.read_text(encoding="utf-8")
        except UnicodeDecodeError as found:
            line = found.object[: found.start].count(b"\n") + 1
            byte = found.object[found.start]
            return f"{file}, line {line}: byte 0x{byte:02x} is not UTF-8; save the file with the encoding UTF-8"
        except OSError:
            continue
    return f"a config file is not UTF-8 ({error.reason}); save it with the encoding UTF-8"


def _of_grammar(override: str, message: str) -> str:
    key, separator, value = override.partition("=")
    if not separator:
        return f"{override}: give a value, as in {override}=VALUE"
    if parsed(f"{key}=x") is None:
        return f"{override}: {key!r} is no name of a key; write KEY=VALUE"
    lines = message.splitlines()
    reason = lines[1] if len(lines) > 1 and message.startswith("Error parsing override") else lines[0]
    return f"{override}: the value cannot be read ({reason.strip()}). As text, type: {as_text(key, value)}"


def _of_option(file: str, names: Sequence[str], overrides: Sequence[str], options: Options) -> str:
    group, _, name = file.rpartition("/")
    typed = [o for o in overrides if o.lstrip("+").partition("@")[0].partition("=")[0] == group and name in o]
    nearest = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {group}={nearest[0]}?" if nearest else ""
    found = typed[-1].lstrip("+") if typed else f"{group}={name} (asked for by a config file)"
    own = "" if options.own else ". Options of your own are found with --config-dir FOLDER"
    return f"{found}: there is no {file}.yaml.{hint} Allowed: {', '.join(names) or 'no options at all'}{own}"


def _of_several_values(text: str, options: Options) -> str | None:
    found = re.search(r"Ambiguous value for argument '(.*)'|Sweep parameters '(.*)' requires", text)
    if not found:
        return None
    override = found.group(1) or found.group(2)
    key, _, value = override.partition("=")
    message = f"{override}: several values are several runs, which -m starts one after another"
    return message if options.names(key.lstrip("+")) else f"{message}. As one text, type: {as_text(key, value)}"


def _of_wrong_kind(error: Exception, overrides: Sequence[str]) -> str | None:
    """About a value of one of Hydra's own keys that they do not take, or an interpolation of nothing."""
    last = [cause for cause in _causes(error) if isinstance(cause, OmegaConfBaseException)][-1:]
    key = last[0].full_key if last else None
    given = [override for override in overrides if override.lstrip("+").partition("=")[0] == key]
    if not key or not given:
        return None
    reason = str(last[0]).strip().splitlines()[0]
    return f"{given[-1]}: {reason}. As text, type: {as_text(key, given[-1].partition('=')[2])}"


def _of_no_option(text: str, overrides: Sequence[str], options: Options) -> str | None:
    twice = re.match(r"Multiple values for (\S+)\. To override a value use 'override", text)
    if twice and f"+{twice.group(1)}" in [override.partition("=")[0] for override in overrides]:
        return f"+{twice.group(1)}: an option is chosen already; choose another one without the plus"
    if "Config group override must be a string" not in text:
        return None
    for override in overrides:
        if override.startswith("="):
            return f"{override}: there is no key before the =; write KEY=VALUE"
        group, separator, value = override.lstrip("+").partition("=")
        read = parsed(override) if separator else None
        if read is not None and options.names(group) and not isinstance(read.value(), str | list | dict):
            names = options.names(group)
            if value in names:
                return f"{group}={value}: read as a number. As text, type: {as_text(group, value)}"
            return f"{group}={value}: not the name of an option; allowed: {', '.join(names)}; or ~{group} for none"
    return None


def _of_key(text: str, config_name: str, overrides: Sequence[str], options: Options) -> str | None:
    """About a key that is not there, from the config composed of the overrides that do compose."""
    unknown = UNKNOWN.search(text)
    keys = [unknown.group(1)] if unknown else [o.lstrip("+~").partition("=")[0] for o in overrides]
    if unknown and ("defaults list" in text or "Did you mean to override" in text or "/" in keys[0]):
        inside = re.match(r"In '([^']+)': ", text)
        group = keys[0].partition("=")[0]
        if inside and options.names(group):
            return (
                f"{inside.group(1)}.yaml: 'override /{group}' finds no {group} chosen before it in the defaults lists"
            )
        return _of_group(group, config_name, overrides, options)
    if "An item is already at" in text:
        return f"{keys[0]}: is there already; give it another value without the plus, as {keys[0]}=VALUE"
    config = _composed(config_name, [o for o in overrides if o.partition("=")[0] not in keys], options)
    findings = [] if config is None else [_of_key_in(config, key, certain=bool(unknown)) for key in keys]
    return next((finding for finding in findings if finding), None)


def _of_key_in(config: DictConfig, key: str, *, certain: bool) -> str | None:
    node: Any = OmegaConf.to_container(config, resolve=False)
    *parents, last = key.split(".")
    for depth, part in enumerate([*parents, last]):
        above = ".".join(key.split(".")[:depth])
        if isinstance(node, list):
            if part.isdecimal() and int(part) < len(node):
                node = node[int(part)]
                continue
            entries = ", ".join(f"{above}.{index} ({as_name(entry)})" for index, entry in enumerate(node))
            return f"{key}: {above} is a list, whose entries go by number: {entries or 'there are none'}"
        if node is not None and not isinstance(node, dict):
            return f"{key}: {above} is a single value and has no keys below it" if certain else None
        if node is None or part not in node:
            if not certain:
                return None
            name = ".".join(key.split(".")[: depth + 1])
            # What is hydra's own is no neighbour of the command's keys.
            return unknown_key(name, [str(there) for there in node or () if depth or there != "hydra"])
        node = node[part]
    if not certain:
        return None
    return f"{key}: the new value has keys that are not there yet; add them one by one with +{key}.NAME=VALUE"


def _of_group(group: str, config_name: str, overrides: Sequence[str], options: Options) -> str:
    """About an option of a group that nothing in this config chooses from."""
    chosen = next((o for o in overrides[::-1] if re.split("[@=]", o.lstrip("+~"))[0] == group), group)
    if not options.names(group):
        nearest = difflib.get_close_matches(group, options.groups(), n=1)
        hint = f" Did you mean {nearest[0]}?" if nearest else ""
        return f"{chosen}: there is no group {group}.{hint} Allowed: {', '.join(options.groups())}"
    config = _composed(config_name, [o for o in overrides if re.split("[@=]", o)[0] != group], options)
    choices = dict(config.hydra.runtime.choices) if config is not None else {}
    choices |= {key: value for key, _, value in (override.partition("=") for override in overrides)}
    for taker, names in options.takers(group).items():
        if choices.get(taker) is not None and choices[taker] not in names:
            return (
                f"{chosen}: {taker}={choices[taker]} has no {group} to choose. "
                f"These have: {taker}={', '.join(sorted(names))}"
            )
    node = None if config is None else config.get(group)
    keys = [f"{group}.{key}" for key in node] if isinstance(node, DictConfig) else []
    hint = f" Here are keys to replace: {', '.join(keys)}" if keys else ""
    return f"{chosen}: this command chooses no option of {group}.{hint}"


def _composed(config_name: str, overrides: Sequence[str], options: Options) -> DictConfig | None:
    """The config with those of `overrides` that decide which keys there are; None if they do not compose."""
    choices: list[str] = []
    for override in overrides:
        key = override.partition("=")[0]
        read = parsed(override) if options.names(key) else None
        if read is not None and not read.is_sweep_override():
            choices.append(override)
    GlobalHydra.instance().clear()
    own = [f"hydra.searchpath=[{','.join(quoted(f'file://{path.absolute()}') for path in options.own)}]"]
    try:
        with hydra.initialize_config_dir(str(options.conf), version_base="1.3"):
            return hydra.compose(config_name, [*choices, *(own if options.own else [])], return_hydra_config=True)
    except Exception:  # whatever else is wrong with them, this message is about another fault
        return None
