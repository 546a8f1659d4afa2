from dataclasses import dataclass
from typing import ClassVar

import pytest

from models import ModelConfig
from pipeline.backend import BackendConfig
from pipeline.common.settings import ALWAYS, NEVER, UNLESS_DEFAULT, WHEN_ON, identity_values, setting, settings_of
from pipeline.config import RunConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chunk_size": 0}, "--chunk-size must be at least 1"),
        ({"overlap": -1}, "--overlap must not be negative"),
        ({"chunk_size": 20, "overlap": 20}, r"--overlap 20 must be smaller.*\(10\) is usual"),
        ({"stride": 0}, "--stride"),
        ({"fps": 0.0}, "--fps must be above zero"),
        ({"fps": 2.0, "stride": 2}, "exclude each other"),
        ({"start": 9, "end": 9}, "--start 9 and --end 9"),
        ({"max_bad_share": 1.5}, "--max-bad-share"),
        ({"workers": 0}, "--workers"),
        ({"threads": 0}, "--threads"),
        ({"preset": "huge"}, "no preset 'huge'; there are city_tiny, scal3r, vit_small"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        RunConfig(**settings)


def test_chunk_sizes_come_from_the_network_where_they_are_not_given():
    published = ModelConfig.scal3r()
    assert RunConfig().with_network_defaults(published).chunk_size == 60
    assert RunConfig().with_network_defaults(published).overlap == 30
    assert RunConfig(chunk_size=21).with_network_defaults(published).overlap == 10
    assert RunConfig(chunk_size=1).with_network_defaults(published).overlap == 0
    assert RunConfig(overlap=7).with_network_defaults(published).overlap == 7


def test_only_settings_that_change_the_numbers_are_part_of_a_results_identity():
    assert RunConfig(workers=3, overwrite=True).result_settings() == RunConfig().result_settings()
    assert RunConfig(stride=2).result_settings() != RunConfig().result_settings()
    assert RunConfig(compile_blocks=True).result_settings() != RunConfig().result_settings()
    assert "compile_blocks" not in RunConfig().result_settings()  # results older than this setting keep their identity


IN_HELP_AND_ALWAYS_PART = "preset chunk_size overlap stride fps start end precision loops stops publish.voxel_size"
EXPERTS_AND_ALWAYS_PART = """
max_bad_share orthogonalise_precision memory_scope turns
loop.threshold loop.top loop.min_gap loop.suppression loop.sequence loop.window loop.detector
stop.motion stop.quiet_share stop.min_frames stop.keep_every turn.reach
backend.scale backend.drift backend.max_pixels backend.confidence_floor backend.huber_delta backend.loop_confidence
backend.unseen_turn backend.unseen_scale backend.unseen_place backend.unseen_lean backend.unseen_growth
publish.with_points publish.confidence_share publish.voxel_memory publish.shard_rows publish.row_group_rows
"""
NEVER_PART = """
input output drive_id weights workers groups device threads gpu_memory host_memory scratch scratch_folder address
overwrite keep_predictions plan only limit retry_failed camera.file camera.fov camera.views
join_clips rig rig_tolerance positions.file positions.crs positions.clock_window positions.lever
"""


def test_what_is_part_of_a_results_identity_is_said_at_each_setting():
    """Settings of commit 733c2cb are in it whatever their value. A later one is in it unless it has its default, so
    that older results stay valid. A setting that is added to the lists here makes every drive be done again."""
    rules = {".".join(one.path): one for one in settings_of(RunConfig)}
    quality = {name for name in rules if name.startswith("backend.quality.")}
    fleet = {name for name in rules if name.startswith("fleet.")}
    always = {name for name, one in rules.items() if one.identity is ALWAYS}
    assert always == {*IN_HELP_AND_ALWAYS_PART.split(), *EXPERTS_AND_ALWAYS_PART.split(), *quality}
    assert {name for name, one in rules.items() if one.identity is NEVER} == {*NEVER_PART.split(), *fleet}
    others = {name: one.identity.said for name, one in rules.items() if one.identity not in (ALWAYS, NEVER)}
    assert others["compile_blocks"] == "when it is on"
    assert others["masks"].startswith("when it is auto")
    later = {name for name, said in others.items() if said == UNLESS_DEFAULT.said}
    assert {"rotate", "camera.square_pixels"} <= later


@dataclass(frozen=True)
class _Section:
    old: int = setting(1, identity=ALWAYS)
    new: int = 5
    FORMER_SETTINGS: ClassVar = ("once",)
    once: ClassVar[int] = 3


@dataclass(frozen=True)
class _Empty:
    new: bool = False


@dataclass(frozen=True)
class _Settings:
    a: _Section = setting(_Section())
    b: _Empty = setting(_Empty())
    hidden: _Section = setting(_Section(), identity=NEVER)
    new: float = setting(0.5)
    unless_zero: int = setting(7, identity=WHEN_ON)


def test_a_setting_of_a_later_version_changes_the_identity_only_if_it_differs_from_its_default():
    before = {"a": {"old": 1, "once": 3}, "unless_zero": 7}
    assert identity_values(_Settings()) == before
    assert identity_values(_Settings(hidden=_Section(2, 6))) == before
    assert identity_values(_Settings(new=0.6)) == {**before, "new": 0.6}
    assert identity_values(_Settings(a=_Section(new=6))) == {**before, "a": {"old": 1, "new": 6, "once": 3}}
    assert identity_values(_Settings(b=_Empty(True)))["b"] == {"new": True}
    assert "unless_zero" not in identity_values(_Settings(unless_zero=0))


def test_naming_the_default_preset_does_not_change_the_identity():
    assert RunConfig(preset="city_tiny").result_settings() == RunConfig().result_settings()
    assert RunConfig(preset="vit_small").result_settings() != RunConfig().result_settings()
    known = RunConfig(preset="city_tiny").same_result_settings()
    assert {(one["preset"], one["start"]) for one in known} == {("city_tiny", None), ("city_tiny", 0), (None, 0)}
    assert {one["preset"] for one in RunConfig(preset="vit_small").same_result_settings()} == {"vit_small"}
    assert {one["start"] for one in RunConfig(start=4).same_result_settings()} == {4}


def test_the_network_is_city_tiny_unless_weights_or_a_preset_are_given():
    assert RunConfig().network.preset == "city_tiny"
    assert RunConfig(weights="x.pt").network.preset is None
    assert RunConfig(weights="x.pt", preset="vit_small").network.preset == "vit_small"


@pytest.mark.parametrize(
    ("on_gpus", "bfloat16", "expected"),
    [
        (True, True, ("bfloat16", True)),
        (True, False, ("float32", True)),
        (False, False, ("float32", False)),
    ],
)
def test_precision_and_compiling_are_decided_for_the_machine(on_gpus, bfloat16, expected):
    settled = RunConfig().with_arithmetic(on_gpus, bfloat16)
    assert (settled.precision, settled.compile_blocks) == expected
    assert (settled.network.precision, settled.network.compiled) == expected


def test_a_given_precision_and_compiling_are_never_changed():
    asked = RunConfig(precision="float32", compile_blocks=False)
    assert asked.with_arithmetic(on_gpus=True, bfloat16=True) == asked
    low = RunConfig(precision="bfloat16", compile_blocks=True)
    assert low.with_arithmetic(on_gpus=False, bfloat16=False) == low


def test_the_identity_contains_the_precision_that_auto_chose():
    on_cpu = RunConfig().with_arithmetic(on_gpus=False, bfloat16=False)
    assert on_cpu.result_settings() == RunConfig(precision="float32", compile_blocks=False).result_settings()
    assert RunConfig().result_settings()["precision"] == "float32"  # as in results that are older than auto
    on_gpu = RunConfig().with_arithmetic(on_gpus=True, bfloat16=True)
    assert on_gpu.result_settings()["precision"] == "bfloat16"
    assert on_gpu.result_settings() != on_cpu.result_settings()


def test_refinement_is_part_of_the_identity_and_older_results_count_as_not_refined():
    assert RunConfig().result_settings()["refine"] is True
    assert "refine" not in RunConfig(refine=False).result_settings()
    assert "road" not in RunConfig().result_settings()["backend"]
    assert RunConfig(backend=BackendConfig(road=False)).result_settings()["backend"]["road"] is False
