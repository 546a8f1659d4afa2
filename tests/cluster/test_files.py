"""The files in cluster/ fit the programs that read them: KubeRay, `ray up`, this project. They hold no keys."""

import copy
import json
import re
import shlex
import subprocess
from importlib import metadata
from pathlib import Path

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement

from jobs.command import settings_from
from jobs.drain import DrainConfig
from pipeline.config import RunConfig

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
PYPROJECT = (ROOT / "pyproject.toml").read_text()
CRD_OF = {"RayCluster": "rayclusters.yaml", "RayJob": "rayjobs.yaml", "RayCronJob": "raycronjobs.yaml"}
YAMLS = sorted(CLUSTER.glob("*.y*ml"))
TEXTS = [path for path in sorted(CLUSTER.iterdir()) if path.is_file()]


def documents(path):
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


RAY_OBJECTS = [
    pytest.param(document, id=f"{path.name}-{document['kind']}")
    for path in YAMLS
    for document in documents(path)
    if document.get("kind") in CRD_OF
]
CORE_OBJECTS = [
    pytest.param(document, id=f"{path.name}-{document['kind']}")
    for path in YAMLS
    for document in documents(path)
    if "kind" in document and document["kind"] not in CRD_OF
]


def strict(schema):
    """A CRD's schema for jsonschema: unknown fields are refused where fields are listed; some are numbers or texts."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: strict(value) for key, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        found.pop("type", None)
        found["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    listed = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    if listed and "additionalProperties" not in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        found["additionalProperties"] = False
    return found


@pytest.fixture(scope="module")
def definitions(shared):
    """kind -> version -> strict schema."""
    folder = shared / "k8s"
    if not folder.is_dir():
        pytest.skip(f"KubeRay's definitions are absent: {folder} is not there")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found = {}
    for kind, name in CRD_OF.items():
        versions = yaml.load((folder / name).read_text(), Loader=loader)["spec"]["versions"]
        found[kind] = {one["name"]: strict(one["schema"]["openAPIV3Schema"]) for one in versions}
    for versions in found.values():
        for schema in versions.values():  # fields that Kubernetes allows in every object
            schema["properties"]["metadata"] = {"type": "object", "required": ["name"]}
    return found


def check(document, definitions):
    version = document["apiVersion"].removeprefix("ray.io/")
    validator = jsonschema.Draft202012Validator(definitions[document["kind"]][version])
    validator.validate(document)  # not jsonschema.validate: that checks the 2 MB of the definition too, each time


@pytest.mark.parametrize("document", RAY_OBJECTS)
def test_ray_objects_fit_their_definitions(document, definitions):
    check(document, definitions)


@pytest.mark.parametrize(
    ("file", "path", "value"),
    [
        ("raycronjob.yaml", ("spec", "timezone"), "Etc/UTC"),
        ("rayjob.yaml", ("spec", "backoffLimit"), "1"),
        ("raycluster.yaml", ("spec", "authOptions", "mode"), "tokens"),
        ("raycluster.yaml", ("spec", "headGroupSpec", "template", "spec", "securityContexts"), {}),
    ],
)
def test_the_check_refuses_unknown_fields_and_wrong_values(file, path, value, definitions):
    (document,) = documents(CLUSTER / file)
    place = document
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        check(document, definitions)


@pytest.mark.parametrize("document", CORE_OBJECTS)
def test_core_objects_have_the_fields_that_kubernetes_requires(document):
    assert document["metadata"]["name"]
    if document["kind"] == "CronJob":
        assert document["apiVersion"] == "batch/v1"
        spec = document["spec"]
        known = {
            "schedule",
            "timeZone",
            "concurrencyPolicy",
            "startingDeadlineSeconds",
            "successfulJobsHistoryLimit",
            "failedJobsHistoryLimit",
            "jobTemplate",
            "suspend",
        }
        assert set(spec) <= known and re.fullmatch(r"(\S+ ){4}\S+", spec["schedule"])
        assert spec["concurrencyPolicy"] == "Forbid"
        pod = spec["jobTemplate"]["spec"]["template"]["spec"]
        assert pod["restartPolicy"] in ("Never", "OnFailure")
        (container,) = pod["containers"]
        assert container["command"] == ["sh", "-c"] and len(container["args"]) == 1
        subprocess.run(["sh", "-n", "-c", *container["args"]], check=True)
        assert "exec ray job submit --submission-id" in container["args"][0]
        # it would end the pod that follows the run, not the run
        assert "activeDeadlineSeconds" not in spec["jobTemplate"]["spec"]
        env = {one["name"]: one for one in container["env"]}
        assert env["RAY_AUTH_MODE"]["value"] == "token"  # the client does not turn authentication on by itself
        (cluster,) = documents(CLUSTER / "raycluster.yaml")
        name = cluster["metadata"]["name"]
        assert env["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"] == {"name": name, "key": "auth_token"}
        assert env["RAY_ADDRESS"]["value"] == f"http://{name}-head-svc:8265"
    elif document["kind"] == "NetworkPolicy":
        assert document["apiVersion"] == "networking.k8s.io/v1"
        assert document["spec"]["podSelector"]["matchLabels"] and document["spec"]["policyTypes"] == ["Ingress"]
    else:
        assert (document["kind"], document["apiVersion"]) == ("ServiceAccount", "v1")


def pods():
    """Every pod template of every file."""
    found = []

    def walk(value, name):
        if isinstance(value, dict):
            if "containers" in value.get("spec", {}) if isinstance(value.get("spec"), dict) else False:
                found.append(pytest.param(value, id=f"{name}-{len(found)}"))
            for part in value.values():
                walk(part, name)
        elif isinstance(value, list):
            for part in value:
                walk(part, name)

    for path in YAMLS:
        for document in documents(path):
            walk(document, path.stem)
    return found


@pytest.mark.parametrize("pod", pods())
def test_pods_run_without_privileges_and_request_cpu_and_memory(pod):
    # without this label the network policy separates them
    assert pod["metadata"]["labels"]["app"] == "city-reconstruction"
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    for container in pod["spec"]["containers"]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert {"cpu", "memory"} <= set(container["resources"]["requests"]) & set(container["resources"]["limits"])
        for mount in container.get("volumeMounts", ()):
            assert mount["name"] in {volume["name"] for volume in pod["spec"]["volumes"]}


def test_ray_clusters_use_a_token_scale_and_have_cpu_and_gpu_groups():
    found = json.dumps([document.values[0] for document in RAY_OBJECTS])
    assert found.count('"authOptions": {"mode": "token"}') == 3
    for document in RAY_OBJECTS:
        text = document.values[0]
        spec = text["spec"]
        spec = spec.get("jobTemplate", spec)
        spec = spec.get("rayClusterSpec", spec)
        assert spec["enableInTreeAutoscaling"] is True
        groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
        assert set(groups) == {"cpu", "gpu"}
        assert all(0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"] for group in groups.values())
        assert groups["cpu"]["minReplicas"] >= 1
        gpu = groups["gpu"]["template"]["spec"]
        words = gpu["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        assert words[:3] == ["python", "-m", "jobs.drain"]
        assert settings_from(DrainConfig, words[3:], prog="").seconds < gpu["terminationGracePeriodSeconds"]
        limits = {
            name: group["template"]["spec"]["containers"][0]["resources"]["limits"] for name, group in groups.items()
        }
        assert limits["gpu"]["nvidia.com/gpu"] == "1" and "nvidia.com/gpu" not in limits["cpu"]


def test_versions_are_those_of_the_project():
    ray = re.search(r'"ray\[[a-z,]+\]==([\d.]+)"', PYPROJECT).group(1)
    version = re.search(r'^version = "(.+)"', PYPROJECT, re.M).group(1)
    assert metadata.version("ray") == ray
    tag = f"registry.example.com/city-reconstruction:{version}-ray{ray}"
    for path in TEXTS:
        text = path.read_text()
        assert set(re.findall(r"registry\.example\.com/[^\s\"'}]+", text)) <= {tag}, path.name
        assert set(re.findall(r'rayVersion: "?([\d.]+)', text)) <= {ray}, path.name
    assert tag in (CLUSTER / "Dockerfile").read_text()


def test_the_image_has_a_pinned_base_runs_without_privileges_and_copies_existing_files():
    text = (CLUSTER / "Dockerfile").read_text()
    bases = re.findall(r"^FROM (\S+)", text, re.M)
    assert bases and all(re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+", base) for base in bases)
    lowest = re.search(r'requires-python = ">=([\d.]+)"', PYPROJECT).group(1)
    assert tuple(map(int, bases[0].split(":")[1].split("-")[0].split(".")))[:2] >= tuple(map(int, lowest.split(".")))
    assert re.findall(r"^USER (\S+)", text, re.M)[-1] == "1000:1000"
    assert "ADD " not in text and "torch==" not in text  # only pyproject.toml gives versions
    copied = [name for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.M) for name in line.split()[:-1]]
    allowed = {line[1:] for line in (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"}
    assert all((ROOT / name).exists() for name in copied) and set(copied) == allowed


@pytest.mark.parametrize("name", ["up-aws.yaml", "up-hosts.yaml"])
def test_ray_up_accepts_the_cluster_files(name):
    from ray.autoscaler._private.util import prepare_config, validate_config

    (config,) = documents(CLUSTER / name)
    validate_config(prepare_config(copy.deepcopy(config)))
    starts = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    assert all("--metrics-export-port=8080" in start for start in starts if "ray start" in start)
    options = " ".join(config["docker"]["run_options"])
    assert "RAY_AUTH_MODE=token" in options
    token = re.search(r"RAY_AUTH_TOKEN_PATH=(\S+)", options).group(1)
    assert config["file_mounts"] == {token: "~/.ray/auth_token"}


SECRETS = [
    r"AKIA[0-9A-Z]{16}",
    r"(?i)aws_secret_access_key\s*[:=]\s*['\"]?[A-Za-z0-9/+]{16,}",
    r"-----BEGIN",
    r"hf_[A-Za-z0-9]{20,}",
    r"(?i)(password|auth_token)\s*[:=]\s*['\"]?[0-9a-f]{16,}",
]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_no_file_holds_a_secret(path):
    text = path.read_text()
    assert [pattern for pattern in SECRETS if re.search(pattern, text)] == []
    if path.suffix in (".yaml", ".yml"):
        assert all(document.get("kind") != "Secret" for document in documents(path))


def entrypoints():
    found = []
    for path in YAMLS:
        text = " ".join(path.read_text().split())
        commands = re.findall(r"python -m (jobs\.\w+ (?:--\S+ \S+ ?)+)", text)
        found += [pytest.param(command, id=path.name) for command in commands]
    return found


@pytest.mark.parametrize("entrypoint", entrypoints())
def test_every_submitted_command_is_a_valid_command_of_this_project(entrypoint):
    words = shlex.split(entrypoint)
    assert words[0] == "jobs.reconstruct"
    config = settings_from(RunConfig, words[1:], prog="jobs.reconstruct")
    assert config.input.startswith("s3://") and config.output.startswith("s3://")
    assert config.device == "gpu" and config.groups  # perhaps no GPU node is up yet when the run starts


def test_every_file_that_starts_a_run_contains_its_command():
    assert {one.id for one in entrypoints()} == {"rayjob.yaml", "raycronjob.yaml", "cronjob.yaml"}


def test_the_image_pins_versions_that_the_project_allows():
    lines = [line for line in (CLUSTER / "constraints.txt").read_text().splitlines() if line[:1] != "#"]
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+", line) for line in lines) and lines == sorted(lines)
    pins = dict(line.split("==") for line in lines)
    block = re.search(r"^dependencies = \[\n(.*?)^\]", PYPROJECT, re.M | re.S).group(1)
    for asked in map(Requirement, re.findall(r'^    "([^"]+)"', block, re.M)):
        if asked.marker is None:
            name = asked.name.lower().replace("_", "-")
            assert asked.specifier.contains(pins[name]), f"{asked}: the image has {pins[name]}"
    assert "-c constraints.txt" in (CLUSTER / "Dockerfile").read_text()


def test_prometheus_scrapes_the_ports_of_the_pods():
    (config,) = documents(CLUSTER / "prometheus.yml")
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    keep = jobs["ray-pods"]["relabel_configs"][0]
    assert keep["action"] == "keep" and keep["regex"] == "city-reconstruction;metrics"
    for pod in pods():
        for container in pod.values[0]["spec"]["containers"]:
            if container["name"].startswith("ray-"):
                assert {"containerPort": 8080, "name": "metrics"} in container["ports"]
    assert jobs["ray-machines"]["file_sd_configs"][0]["files"] == ["/tmp/ray/prom_metrics_service_discovery.json"]
