import pytest

from models import ModelConfig
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


def test_a_result_is_known_by_the_settings_that_change_its_numbers_only():
    assert RunConfig(workers=3, overwrite=True).result_settings() == RunConfig().result_settings()
    assert RunConfig(stride=2).result_settings() != RunConfig().result_settings()
    assert RunConfig(compile_blocks=True).result_settings() != RunConfig().result_settings()
    assert "compile_blocks" not in RunConfig().result_settings()  # results from before it was there keep their identity


def test_the_network_is_the_small_one_unless_weights_or_a_preset_say_otherwise():
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
def test_precision_and_compiling_are_settled_for_the_machine(on_gpus, bfloat16, expected):
    settled = RunConfig().with_arithmetic(on_gpus, bfloat16)
    assert (settled.precision, settled.compile_blocks) == expected
    assert (settled.network.precision, settled.network.compiled) == expected


def test_what_was_asked_for_is_never_settled_otherwise():
    asked = RunConfig(precision="float32", compile_blocks=False)
    assert asked.with_arithmetic(on_gpus=True, bfloat16=True) == asked
    low = RunConfig(precision="bfloat16", compile_blocks=True)
    assert low.with_arithmetic(on_gpus=False, bfloat16=False) == low


def test_a_result_is_known_by_the_precision_that_auto_came_to():
    on_cpu = RunConfig().with_arithmetic(on_gpus=False, bfloat16=False)
    assert on_cpu.result_settings() == RunConfig(precision="float32", compile_blocks=False).result_settings()
    assert RunConfig().result_settings()["precision"] == "float32"  # as results from before auto was there
    on_gpu = RunConfig().with_arithmetic(on_gpus=True, bfloat16=True)
    assert on_gpu.result_settings()["precision"] == "bfloat16"
    assert on_gpu.result_settings() != on_cpu.result_settings()
