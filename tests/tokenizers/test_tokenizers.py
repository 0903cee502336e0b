"""The contract of `tokenizers/`: text comes back, tokens fit the vocabulary, files reopen it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizer_examples import END, SENTENCES, made, make_tiktoken

from scalekit import registry
from scalekit.errors import InputError, UsageError
from scalekit.prepare.recipe import NO_END, Recipe, end_token, open_tokenizer
from scalekit.tokenizers.base import Coder

NAMES = registry.names("tokenizers")


@pytest.fixture(params=NAMES, scope="module")
def coder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Coder:
    return open_tokenizer(made(request.param, tmp_path_factory.mktemp("tokenizer")))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(texts=st.lists(st.text(max_size=30), min_size=1, max_size=3))
def test_any_text_comes_back_from_tokens_of_the_vocabulary(coder: Coder, texts: list[str]) -> None:
    encoded = coder.encode(texts)
    assert [coder.decode(tokens) for tokens in encoded] == texts
    assert all(0 <= token < coder.vocab for tokens in encoded for token in tokens)
    lengths = coder.token_bytes()
    assert lengths is not None
    assert len(lengths) == coder.vocab
    for text, tokens in zip(texts, encoded, strict=True):
        assert sum(lengths[token] for token in tokens) == len(text.encode())


@pytest.fixture(scope="module")
def elsewhere(coder: Coder, tmp_path_factory: pytest.TempPathFactory) -> Coder:
    """The same tokenizer as Hugging Face's libraries open it."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for name, data in coder.to_huggingface(16).items():
        (folder / name).write_bytes(data)
    pytest.importorskip("tokenizers", "0.1")
    return open_tokenizer(f"huggingface:{folder}")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(texts=st.lists(st.text(max_size=30), min_size=1, max_size=3))
def test_hugging_faces_libraries_cut_text_into_the_same_tokens(
    coder: Coder, elsewhere: Coder, texts: list[str]
) -> None:
    told = [*texts, " the thatthe atat th e", *SENTENCES[:3]]
    ours, theirs = coder.encode(told), elsewhere.encode(told)
    assert [list(tokens) for tokens in theirs] == [list(tokens) for tokens in ours]
    assert elsewhere.decode(ours[-1]) == told[-1]
    assert elsewhere.vocab == coder.vocab
    if coder.identity != "bytes":  # there it is a byte like the others
        assert elsewhere.end_of_text == coder.end_of_text


def test_what_looks_like_a_special_token_in_a_text_is_text(coder: Coder) -> None:
    (tokens,) = coder.encode([f"a{END}b"])
    assert coder.end_of_text is not None
    assert coder.end_of_text not in tokens
    assert coder.decode(tokens) == f"a{END}b"


@pytest.mark.parametrize("name", NAMES)
def test_a_tokenizer_opens_again_from_the_files_it_names(name: str, tmp_path: Path) -> None:
    first = open_tokenizer(made(name, tmp_path / "first"))
    again = tmp_path / "again"
    again.mkdir()
    for file, data in first.files.items():
        (again / file).write_bytes(data)
    file = registry.find("tokenizers", name).file
    assert bool(file) == bool(first.files)
    second = open_tokenizer(f"{name}:{again / file}" if file else name)
    assert second.identity == first.identity
    assert second.end_of_text == first.end_of_text
    assert second.encode(SENTENCES) == first.encode(SENTENCES)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "bytes"])
def test_the_identity_follows_what_decides_tokens_and_not_the_place(
    name: str, tmp_path: Path
) -> None:
    one, two, other = (
        open_tokenizer(made(name, tmp_path / place, extra)).identity
        for place, extra in (("one", ""), ("two", ""), ("other", "zebra"))
    )
    assert one == two
    assert one != other


@pytest.mark.parametrize("name", [n for n in NAMES if n != "bytes"])
def test_a_missing_library_is_named_with_what_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, registry.find("tokenizers", name).package, None)
    with pytest.raises(InputError, match=r"not installed here; pip install"):
        open_tokenizer(f"{name}:x.json")


@pytest.mark.parametrize("name", [n for n in NAMES if n != "bytes"])
@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"\xff\xfe", b'{"ranks": 1}'])
def test_a_file_that_is_no_tokenizer_is_refused_by_name(
    name: str, content: bytes | None, tmp_path: Path
) -> None:
    pytest.importorskip(registry.find("tokenizers", name).package, "0.1")
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=str(path)):
        open_tokenizer(f"{name}:{path}")


def test_importing_a_member_loads_no_tokenizer_library() -> None:
    program = (
        "import sys\n"
        "from scalekit import registry\n"
        f"for name in {NAMES!r}: registry.find('tokenizers', name)\n"
        "sys.exit(bool({'tokenizers', 'tiktoken', 'numpy'} & set(sys.modules)))\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_an_unknown_tokenizer_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'bytes'"):
        open_tokenizer("byte")


@pytest.mark.parametrize(
    ("line", "says"),
    [(b"!!! 0", ":1: no token"), (b"YQ== x", ":1: no token"), (b"YQ== 7", "not 0, 1, 2")],
)
def test_ranks_that_are_damaged_are_refused_with_their_line(
    line: bytes, says: str, tmp_path: Path
) -> None:
    pytest.importorskip("tiktoken", "0.1")
    where = make_tiktoken(tmp_path)
    (tmp_path / "small.tiktoken").write_bytes(line + b"\n")
    with pytest.raises(InputError, match=says):
        open_tokenizer(where)


def recipe(end_of_text: str | None) -> Recipe:
    from scalekit.documents.base import Ask

    return Recipe("huggingface:x", end_of_text, 0.1, 1, Ask())


def test_the_end_of_text_is_named_or_known_or_asked_for(tmp_path: Path) -> None:
    coder = open_tokenizer(made("huggingface", tmp_path))
    assert end_token(coder, recipe(None)) == end_token(coder, recipe(END)) == coder.end_of_text
    assert end_token(coder, recipe(NO_END)) is None
    with pytest.raises(InputError, match="no token of"):
        end_token(coder, recipe("<|eos|>"))
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(InputError, match="does not say which token ends"):
        end_token(open_tokenizer(f"huggingface:{tmp_path}"), recipe(None))


def test_an_encoding_with_a_special_token_amid_its_ranks_is_opened_again(tmp_path: Path) -> None:
    pytest.importorskip("tiktoken", "0.1")
    from scalekit.tokenizers.tiktoken import Encoding, open_coder

    ranks = {**{bytes([b]): b for b in range(256)}, b"th": 257}
    coder = Encoding(ranks, r" ?\w+|\s+|[^\s\w]+", {END: 256}, "made up")
    for name, data in coder.files.items():
        (tmp_path / name).write_bytes(data)
    again = open_coder(str(tmp_path / "tiktoken.json"))
    assert again.identity == coder.identity
    assert again.encode(["the"]) == coder.encode(["the"]) == [[257, ord("e")]]
    ranks_file = tmp_path / "tiktoken.ranks"
    ranks_file.write_bytes(ranks_file.read_bytes() + b"YWJj 259\n")
    with pytest.raises(InputError, match="not 0, 1, 2"):
        open_coder(str(tmp_path / "tiktoken.json"))
