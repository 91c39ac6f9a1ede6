"""Drop-ins of a configuration: what counts, and which file a mistake is in."""

import os
from pathlib import Path

import pytest

from dispatchd.agent.config.load import Config, Places, load, locate
from dispatchd.errors import ConfigError
from dispatchd.hub.config.load import load as load_hub

MAIN = """
[cloud]
url = "https://one.example"
hold_s = 7
[license]
public_keys = ["a.pem"]
[workflows.it]
command = ["/bin/true"]
"""


def write(folder: Path, **drop_ins: str) -> Path:
    file = folder / "config.toml"
    file.write_text(MAIN)
    (folder / "config.toml.d").mkdir()
    for name, text in drop_ins.items():
        (folder / "config.toml.d" / f"{name}.toml").write_text(text)
    return file


def read(file: Path) -> Config:
    places = Places(state_folder=file.parent / "s", control_folder=file.parent / "c")
    return load(file, defaults=places, search_path="/bin")


def test_a_later_file_counts_and_tables_are_merged(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        b='[cloud]\nurl = "https://three.example"',
        a='[cloud]\nurl = "https://two.example"\npoll_interval_s = 3',
        c='[workflows.more]\ncommand = ["true"]\n[license]\npublic_keys = ["b.pem"]',
    )
    (tmp_path / "config.toml.d" / "d.txt").write_text("no TOML, and not read")
    (tmp_path / "config.toml.d" / ".#a.toml").symlink_to("lock-of@an.editor:1")

    config = read(file)

    assert config.cloud.url == "https://three.example"
    assert (config.cloud.hold_s, config.cloud.poll_interval_s) == (7, 3)
    assert config.license.public_keys == ("b.pem",)
    assert sorted(config.workflows) == ["it", "more"]
    assert config.file == file
    assert file.with_name("config.toml.d") / "a.toml" in config.needed_files()


@pytest.mark.parametrize(
    ("drop_in", "file", "key"),
    [
        ('[cloud]\nurl = "ftp://x"', "config.toml.d/a.toml", "cloud.url"),
        ("[cloud]\nhold_s = -1", "config.toml.d/a.toml", "cloud.hold_s"),
        ("[cloud]\nholds = 1", "config.toml.d/a.toml", "cloud.holds"),
        ("[workflows.x]\nenv = {}", "config.toml.d/a.toml", "workflows.x.command"),
        ("[cloud", "config.toml.d/a.toml", ""),
        ("", "config.toml", "workflows.it.command"),
    ],
)
def test_a_mistake_is_said_with_the_file_that_makes_it(
    tmp_path: Path, drop_in: str, file: str, key: str
) -> None:
    main = write(tmp_path, a=drop_in)
    if not drop_in:
        main.write_text(MAIN.replace("/bin/true", "no-such-program"))

    with pytest.raises(ConfigError) as caught:
        read(main)

    [problem] = caught.value.problems
    assert (problem.file, problem.key) == (tmp_path / file, key)


def test_folders_are_found_whatever_is_broken(tmp_path: Path) -> None:
    main = write(tmp_path, a='[store]\nfolder = "there"\n', b="[cloud\n")
    places, problem = locate(
        main, defaults=Places(state_folder=tmp_path, control_folder=tmp_path)
    )

    assert places.state_folder == tmp_path / "there"
    assert problem is not None
    assert problem.file == tmp_path / "config.toml.d" / "b.toml"


def test_a_pipe_or_a_folder_among_the_drop_ins_is_a_mistake_and_not_waited_for(
    tmp_path: Path,
) -> None:
    main = write(tmp_path, a="")
    drop_ins = tmp_path / "config.toml.d"
    os.mkfifo(drop_ins / "b.toml")
    (drop_ins / "c.toml").mkdir()

    with pytest.raises(ConfigError) as caught:
        read(main)

    files = [problem.file for problem in caught.value.problems]
    assert files == [drop_ins / "b.toml", drop_ins / "c.toml"]


def test_a_hub_reads_its_drop_ins_and_says_which_one_has_a_mistake(
    tmp_path: Path,
) -> None:
    file = tmp_path / "hub.toml"
    file.write_text('listen = "127.0.0.1:1"\n[queue]\nmost = 5\n')
    drop_in = tmp_path / "hub.toml.d" / "a.toml"
    drop_in.parent.mkdir()
    drop_in.write_text('listen = "127.0.0.1:2"\n[queue]\nmost_mib = 7\n')
    settings = load_hub(file)
    drop_in.write_text("[queue]\nmost_mib = -7\n")
    with pytest.raises(ConfigError) as wrong:
        load_hub(file)
    drop_in.write_text("[queue")
    with pytest.raises(ConfigError) as broken:
        load_hub(file)

    assert settings.listen == "127.0.0.1:2"
    assert (settings.queue.most, settings.queue.most_mib) == (5, 7)
    assert settings.file == file
    problems = [*wrong.value.problems, *broken.value.problems]
    assert [problem.file for problem in problems] == [drop_in, drop_in]
    assert problems[0].key == "queue.most_mib"
    assert "hub init" not in problems[1].expected
