"""Outputs in a bucket: at any moment it holds the old contents or the new. The bucket is in memory."""

import contextlib
import itertools
import threading

import pytest

from distillspec_jax import outputs
from distillspec_jax.buckets import commits, copies, stores
from distillspec_jax.buckets.followed_folders import FollowedFolder
from distillspec_jax.buckets.published_files import PublishedFile
from distillspec_jax.buckets.published_folders import PublishedFolder
from distillspec_jax.errors import Unavailable, UsageError
from tests import bucket as toy
from tests.bucket import Killed

FOLDER, FILE = f"{toy.ADDRESS}/runs/one", f"{toy.ADDRESS}/out.jsonl"
BEFORE = {"card.json": "{}", "steps/1/a": "old", "steps/2/b": "other", "log": "1\n"}
AFTER = {"card.json": "{}", "steps/2/b": "damaged and made again", "steps/3/a": "new", "log": "1\n2\n"}
LATER = {"card.json": "{}", "steps/2/b": AFTER["steps/2/b"], "steps/4/a": "newest", "log": "1\n2\n3\n"}


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILLSPEC_CACHE", str(tmp_path / "here"))
    monkeypatch.setattr(stores, "WAITS", (0.0, 0.0))
    yield toy.Bucket(monkeypatch)
    toy.forget()


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Goes on on another machine."""
    numbers = itertools.count()
    return lambda: monkeypatch.setenv("DISTILLSPEC_CACHE", str(tmp_path / f"machine-{next(numbers)}"))


def make(folder, contents):
    """Makes a folder on this machine hold these files alone; files grow where they can."""
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        if path.relative_to(folder).as_posix() not in contents:
            path.unlink()
    for name, text in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)


def held(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()
    }


def read(address=FOLDER):
    """What another process reads."""
    toy.forget()
    return held(copies.local(address))


def publish(contents, address=FOLDER):
    one = PublishedFolder(address)
    try:
        make(one.path, contents)
        one.publish()
    finally:
        one.close()


def writes_of(bucket):
    """How many writes it takes to publish AFTER over BEFORE."""
    publish(BEFORE)
    before = len(bucket.written)
    publish(AFTER)
    return len(bucket.written) - before


def test_what_is_published_is_read_and_nothing_else_lies_there(bucket):
    publish(BEFORE)
    assert read() == BEFORE
    publish(AFTER)
    assert read() == AFTER
    assert bucket.names("runs/one") == sorted([*AFTER, commits.NAME])
    assert read(f"{FOLDER}/steps") == {"2/b": AFTER["steps/2/b"], "3/a": "new"}
    assert copies.local(f"{FOLDER}/log").read_text() == "1\n2\n"


def test_what_has_not_changed_is_not_written_again(bucket):
    publish(BEFORE)
    written = len(bucket.written)
    publish(BEFORE)
    assert len(bucket.written) == written
    publish(BEFORE | {"new": "x"})
    names = [name.removeprefix(f"{FOLDER}/") for name in bucket.written[written:]]
    assert names == [commits.NAME, "new", commits.NAME]


@pytest.mark.parametrize("machine", ["the same", "another"])
def test_a_kill_at_any_write_leaves_the_old_or_the_new(bucket, elsewhere, machine):
    writes, seen = writes_of(bucket), []
    assert writes > 8
    for at in range(1, writes + 1):
        bucket.empty()
        elsewhere()
        publish(BEFORE)
        with bucket.failing(at, Killed()), pytest.raises(Killed):
            publish(AFTER)
        found = read()
        seen.append(found)
        assert found in (BEFORE, AFTER)
        if machine == "another":
            elsewhere()
        one = PublishedFolder(FOLDER)
        assert held(one.path) == (found if machine == "another" else AFTER) or found == held(one.path)
        one.close()
        assert read() == found
        publish(LATER)
        assert read() == LATER
        assert bucket.names("runs/one") == sorted([*LATER, commits.NAME])
    assert seen.index(AFTER) > 4  # nothing is new before its commit, and all is after it
    assert seen == sorted(seen, key=lambda one: one == AFTER)


@pytest.mark.slow
def test_two_kills_at_any_two_writes_leave_one_of_the_contents(bucket, elsewhere):
    writes = writes_of(bucket) + 4  # what the first kill left is cleared away, too
    for first, second in itertools.product(range(1, writes + 1), repeat=2):
        bucket.empty()
        elsewhere()
        publish(BEFORE)
        for at, contents in ((first, AFTER), (second, LATER)):
            elsewhere()
            with bucket.failing(at, Killed()), contextlib.suppress(Killed):
                publish(contents)
            assert read() in (BEFORE, AFTER, LATER)
        elsewhere()
        publish(BEFORE)
        assert read() == BEFORE
        assert bucket.names("runs/one") == sorted([*BEFORE, commits.NAME])


def test_a_kill_before_the_first_commit_is_gone_on_from(bucket, elsewhere):
    with bucket.failing(2, Killed(), times=99), pytest.raises(Killed):
        publish(BEFORE)
    with pytest.raises(UsageError, match="nothing is there"):
        read()
    elsewhere()
    publish(AFTER)
    assert read() == AFTER


def test_a_lost_connection_is_tried_again(bucket):
    publish(BEFORE)
    with bucket.failing(2, ConnectionResetError("reset by peer")):
        publish(AFTER)
    assert read() == AFTER


def test_a_connection_that_stays_lost_is_one_line_and_the_old_stays(bucket):
    publish(BEFORE)
    with (
        bucket.failing(2, ConnectionResetError("reset by peer"), times=99),
        pytest.raises(Unavailable, match=rf"^cannot save to {FOLDER}: reset by peer$"),
    ):
        publish(AFTER)
    assert read() == BEFORE
    one = PublishedFolder(FOLDER)  # nobody else has been there: the work is not lost
    assert held(one.path) == AFTER
    one.close()


def test_what_ended_early_is_not_committed(bucket, monkeypatch):
    def put_file(file, name):
        bucket.store.store.pop(name, None)
        bucket.store.pipe(name, b"x")

    publish(BEFORE)
    with monkeypatch.context() as patch:
        patch.setattr(bucket.store, "put_file", put_file)
        with pytest.raises(UsageError, match=r"steps/2/b|ended after 1 of \d+ bytes"):
            publish(AFTER)
    assert read() == BEFORE


def test_a_reader_starts_again_when_a_run_publishes_meanwhile(bucket, monkeypatch):
    publish(BEFORE)
    get_file = bucket.store.get_file

    def meanwhile(name, to):
        monkeypatch.setattr(bucket.store, "get_file", get_file)
        publish(AFTER)
        return get_file(name, to)

    monkeypatch.setattr(bucket.store, "get_file", meanwhile)
    assert read() == AFTER


def test_a_file_that_grows_is_published_as_it_was(bucket):
    one = PublishedFolder(FOLDER)
    make(one.path, BEFORE)
    with one._snapshot() as parts:
        with (one.path / "log").open("a") as log:
            log.write("2\n")
        one._publish(parts)
    one.close()
    assert read() == BEFORE


def test_a_file_that_grows_while_it_is_uploaded_is_published_as_it_was(bucket, monkeypatch):
    one = PublishedFolder(FOLDER)
    make(one.path, BEFORE)
    upload = bucket.store.put_file

    def grow(source, *args, **kwargs):
        if not source.endswith(".cut"):
            with (one.path / "log").open("a") as log:
                log.write("2\n")
        return upload(source, *args, **kwargs)

    monkeypatch.setattr(bucket.store, "put_file", grow)
    one.publish()
    one.close()
    assert read() == BEFORE


def test_what_goes_wrong_in_the_background_is_raised_in_the_foreground(bucket):
    one = PublishedFolder(FOLDER)
    make(one.path, BEFORE)
    with bucket.failing(2, ConnectionResetError("reset by peer"), times=99):
        one.publish_behind()
        one._behind.join()
    with pytest.raises(UsageError, match="reset by peer"):
        one.check()
    one.publish()
    one.close()
    assert read() == BEFORE
    assert not any(thread.name.startswith("publish") for thread in threading.enumerate())


def test_a_second_run_is_refused(bucket, elsewhere):
    one = PublishedFolder(FOLDER)
    with pytest.raises(UsageError, match="another process is writing there"):
        PublishedFolder(FOLDER)
    make(one.path, BEFORE)
    elsewhere()
    publish(LATER)
    with pytest.raises(UsageError, match="another run has saved there since this one began"):
        one.publish()
    one.close()
    assert read() == LATER


@pytest.mark.parametrize("theirs", [LATER, BEFORE])  # with nothing new, it clears away
def test_a_run_that_another_took_over_from_commits_nothing(bucket, elsewhere, theirs):
    """It listed what it had put there, and the other one had removed."""
    publish(BEFORE)
    one = PublishedFolder(FOLDER)
    make(one.path, AFTER)
    second = len(bucket.written) + 2  # the first object, after the commit that announces it

    def meanwhile(number):
        if number == second:
            bucket.fail = lambda number: None
            elsewhere()
            publish(theirs)

    bucket.fail = meanwhile
    with pytest.raises(UsageError, match=r"another run has saved there .* run again, goes on from what is"):
        one.publish()
    one.close()
    assert read() == theirs


def test_a_machine_goes_on_from_what_another_has_published_since(bucket, elsewhere, monkeypatch, tmp_path):
    publish(BEFORE)
    elsewhere()
    publish(AFTER)
    monkeypatch.setenv("DISTILLSPEC_CACHE", str(tmp_path / "here"))
    one = PublishedFolder(FOLDER)
    assert held(one.path) == AFTER
    one.close()


def test_a_folder_of_others_is_refused_and_left(bucket):
    bucket.put({"runs/one/notes.txt": b"mine"})
    with pytest.raises(
        UsageError, match=rf"cannot save to {FOLDER}: it holds notes.txt, but no commit\.json"
    ):
        PublishedFolder(FOLDER)
    assert bucket.names("runs/one") == ["notes.txt"]


def test_others_below_a_folder_stay(bucket):
    publish(BEFORE)
    bucket.put({"runs/one/notes.txt": b"mine"})
    publish({"card.json": "{}"})
    assert bucket.names("runs/one") == ["card.json", commits.NAME, "notes.txt"]


def test_an_object_that_is_damaged_is_named(bucket):
    publish(BEFORE)
    bucket.put({"runs/one/steps/1/a": b"OLD"})
    with pytest.raises(UsageError, match=rf"cannot read '{FOLDER}': steps/1/a is not what was committed"):
        read()


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "a//b", ".", ""])
def test_a_commit_that_leads_out_of_its_folder_is_refused(bucket, name):
    entry = commits.Entry(1, "0" * 64)
    bucket.put({"runs/one/commit.json": commits.Commit({name: entry}).encoded()})
    for action in (read, lambda: PublishedFolder(FOLDER)):
        with pytest.raises(UsageError, match=r"commit\.json is damaged, or no commit of ours"):
            action()
    assert not commits.is_name(name)


# --- single files ---


def lines_of(one, text, whole):
    """Writes some lines, and makes them a file if they are whole."""
    partial = one.path.with_name("out.jsonl.partial")
    partial.write_text(text)
    if whole:
        partial.replace(one.path)
    one.publish()


def test_a_file_is_one_object_and_its_partial_lines_another(bucket, elsewhere):
    one = PublishedFile(FILE)
    lines_of(one, "a\n", whole=False)
    one.close()
    elsewhere()
    one = PublishedFile(FILE)
    assert one.path.with_name("out.jsonl.partial").read_text() == "a\n"
    lines_of(one, "a\nb\n", whole=True)
    one.close()
    assert [name for name in bucket.store.store if "out" in name] == ["/bucket/out.jsonl"]
    toy.forget()
    assert copies.local(FILE).read_text() == "a\nb\n"


def test_a_file_that_another_run_wrote_meanwhile_is_left(bucket, elsewhere):
    one = PublishedFile(FILE)
    bucket.put({"out.jsonl": b"theirs\n"})
    with pytest.raises(UsageError, match="another run has written there since this one began"):
        lines_of(one, "ours\n", whole=True)
    one.close()
    assert bucket.store.cat("/bucket/out.jsonl") == b"theirs\n"


def test_a_bucket_is_no_file(bucket):
    with pytest.raises(UsageError, match="cannot save to memory://bucket: it is a bucket"):
        PublishedFile("memory://bucket")


# --- several hosts ---


def test_other_hosts_have_what_the_first_has_published_and_publish_nothing(bucket):
    first, other = PublishedFolder(FOLDER), FollowedFolder(FOLDER, 1)
    for contents in (BEFORE, AFTER):
        make(first.path, contents)
        first.publish()
        make(other.path, {"log": "of this host\n", "steps/9/a": "never saved"})
        written = len(bucket.written)
        other.publish()
        other.publish_behind()
        other.follow()
        assert held(other.path) == contents == read()
        assert len(bucket.written) == written
    other.close()
    first.close()


# --- runs ---


def test_an_output_that_the_run_reads_is_refused(bucket):
    bucket.put({"out.jsonl": b"theirs\n"})
    with outputs.run():
        outputs.reads(FILE)
        with pytest.raises(UsageError, match=rf"cannot save to {FILE}: this run reads it"):
            outputs.place(FILE, folder=False)


def test_errors_name_the_address(bucket, tmp_path):
    with pytest.raises(UsageError, match=rf"^{FOLDER}/card\.json: malformed$"), outputs.run():
        raise UsageError(f"{outputs.place(FOLDER, folder=True)}/card.json: malformed")
    assert stores.staged(FOLDER) is None


def test_a_run_reads_what_it_wrote_where_it_lies(bucket):
    with outputs.run():
        place = outputs.place(outputs.Path(FOLDER), folder=True)
        assert copies.local(f"{FOLDER}/steps/1") == place / "steps/1"
        assert outputs.published(place / "x").address == FOLDER
        assert outputs.published(place.parent) is None
