"""The manifests of `deploy/`: valid by the schemas of what reads them, in agreement with each other, and with options that exist."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mogu import MoguConfig
from mogu.cli import app

yaml = pytest.importorskip("yaml", reason="reading the manifests needs PyYAML")

DEPLOY = Path(__file__).parents[2] / "deploy"
KUBERNETES = ("server.yaml", "volume.yaml", "autoscaler.yaml")
KUBERNETES_VERSIONS = ("1.30", "1.37")  # the oldest in which a pod may sleep before it is stopped, and the newest that has schemas


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def resource(kind: str) -> dict[str, Any]:
    [found] = [one for name in KUBERNETES for one in documents(f"kubernetes/{name}") if one["kind"] == kind]
    return found


def patched() -> dict[str, Any]:
    """The Deployment with two engines a pod, as `kubectl patch` makes it."""
    deployment = resource("Deployment")
    [patch] = documents("kubernetes/data-parallel.yaml")
    [change] = patch["spec"]["template"]["spec"]["containers"]
    container(deployment).update(change)
    return deployment


def container(deployment: dict[str, Any]) -> dict[str, Any]:
    [only] = deployment["spec"]["template"]["spec"]["containers"]
    return only


def ray_config() -> dict[str, Any]:
    [config] = documents("ray/serve.yaml")
    return config


def ray_llm() -> dict[str, Any]:
    [application] = ray_config()["applications"]
    [llm] = application["args"]["llm_configs"]
    return llm


def cli_args() -> Any:
    """vLLM's module of command-line options, which 0.33 moved."""
    for folder in ("common", "launchers"):
        with contextlib.suppress(ModuleNotFoundError):
            return importlib.import_module(f"vllm.entrypoints.{folder}.cli_args")
    raise AssertionError("vLLM has moved its options again")


DEPLOYMENTS = pytest.mark.parametrize("deployment", [resource("Deployment"), patched()], ids=["server", "data-parallel"])


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_kubernetes_manifests_fit_kubernetes_schemas(version):
    validator = pytest.importorskip("kubernetes_validate", reason="Kubernetes' schemas come with kubernetes-validate")
    for one in [*(one for name in KUBERNETES for one in documents(f"kubernetes/{name}")), patched()]:
        validator.validate(one, version, strict=True)


@DEPLOYMENTS
def test_names_ports_and_labels_agree(deployment):
    pod = deployment["spec"]["template"]
    labels = pod["metadata"]["labels"]
    service, budget, scaler = resource("Service"), resource("PodDisruptionBudget"), resource("HorizontalPodAutoscaler")
    assert (
        deployment["spec"]["selector"]["matchLabels"] == labels == service["spec"]["selector"] == budget["spec"]["selector"]["matchLabels"]
    )
    assert resource("Pod")["metadata"]["labels"] != labels, "the pod for copying would be sent requests"
    target = scaler["spec"]["scaleTargetRef"]
    assert [target[key] for key in ("apiVersion", "kind", "name")] == [
        deployment["apiVersion"],
        "Deployment",
        deployment["metadata"]["name"],
    ]

    server = container(deployment)
    [port] = server["ports"]
    [outside] = service["spec"]["ports"]
    assert outside["targetPort"] == port["name"]
    assert str(port["containerPort"]) == value_of("--port", server["args"]) == pod["metadata"]["annotations"]["prometheus.io/port"]
    assert value_of("--host", server["args"]) == "0.0.0.0"
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert server[probe]["httpGet"] == {"path": "/health", "port": port["name"]}

    [claim] = [one["persistentVolumeClaim"]["claimName"] for one in pod["spec"]["volumes"] if "persistentVolumeClaim" in one]
    assert claim == resource("PersistentVolumeClaim")["metadata"]["name"]
    assert {one["name"] for one in pod["spec"]["volumes"]} == {one["name"] for one in server["volumeMounts"]}


@DEPLOYMENTS
def test_a_pod_has_time_to_finish_its_answers(deployment):
    server, pod = container(deployment), deployment["spec"]["template"]["spec"]
    answering = int(value_of("--shutdown-timeout", server["args"]))
    assert server["lifecycle"]["preStop"]["sleep"]["seconds"] + answering < pod["terminationGracePeriodSeconds"]


@DEPLOYMENTS
def test_an_engine_has_a_gpu(deployment):
    server = container(deployment)
    engines = int(value_of("--data-parallel-size", server["args"], "1"))
    assert server["resources"]["limits"]["nvidia.com/gpu"] == str(engines)


@pytest.mark.parametrize("kind", ["Deployment", "Pod"])
def test_pods_have_few_rights(kind):
    pod = resource(kind)["spec"] if kind == "Pod" else resource(kind)["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert not pod["automountServiceAccountToken"]
    assert not any("hostPath" in volume for volume in pod["volumes"])
    for one in pod["containers"]:
        assert one["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_the_key_comes_from_a_secret_and_the_server_is_locked():
    [key] = [one for one in container(resource("Deployment"))["env"] if one["name"] == "VLLM_API_KEY"]
    assert key["valueFrom"]["secretKeyRef"]["key"] == "api-key"
    assert "optional" not in key["valueFrom"]["secretKeyRef"], "without a key anyone could ask"
    assert "--locked" in container(resource("Deployment"))["args"]
    assert ray_llm()["runtime_env"]["env_vars"]["MOGU_LOCKED"] == "1"


def test_nothing_that_is_deployed_imports_from_the_current_folder():
    [first, second] = (DEPLOY / "Dockerfile").read_text().split("\nFROM vllm AS ray\n")
    assert first.index("ENV PYTHONSAFEPATH=1") < first.index("RUN ")  # pip is started with `python3 -m` as well
    assert "PYTHONSAFEPATH" not in second  # which goes on from the first
    assert {"name": "PYTHONSAFEPATH", "value": "1"} in container(resource("Deployment"))["env"]
    assert ray_llm()["runtime_env"]["env_vars"]["PYTHONSAFEPATH"] == "1"


@pytest.fixture(scope="module")
def saved_model(make_pair, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "safer-model"
    make_pair("llama", config=MoguConfig(base_model="tiny"))[0].save_pretrained(folder)
    return folder


@DEPLOYMENTS
def test_mogu_serve_knows_the_arguments(deployment, saved_model, monkeypatch):
    arguments = vllm_arguments(deployment, saved_model, monkeypatch)
    assert arguments[:2] == ["serve", "tiny"]
    assert f"{saved_model.name}={saved_model.resolve()}" in arguments
    assert value_of("--host", arguments) == "0.0.0.0"
    assert "--locked" not in arguments


@DEPLOYMENTS
def test_vllm_knows_the_arguments(deployment, saved_model, monkeypatch):
    pytest.importorskip("vllm", reason="vLLM's parser comes with vLLM")
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parsed = cli_args().make_arg_parser(FlexibleArgumentParser()).parse_args(vllm_arguments(deployment, saved_model, monkeypatch)[1:])
    assert (parsed.host, parsed.port, parsed.enable_lora) == ("0.0.0.0", 8000, True)
    assert parsed.shutdown_timeout == 120
    assert [module.name for module in parsed.lora_modules] == [saved_model.name]


def test_ray_serve_accepts_the_config():
    schema = pytest.importorskip("ray.serve.schema", reason="Ray Serve's schema comes with ray[serve]")
    config = schema.ServeDeploySchema.model_validate(ray_config())
    assert config.model_dump(exclude_unset=True) == ray_config(), "the schema drops names that it does not know"


def test_ray_serve_llm_accepts_the_config():
    pytest.importorskip("vllm", reason="Ray Serve LLM is made of vLLM's classes")
    pytest.importorskip("pyarrow", reason="Ray Serve LLM needs PyArrow")
    llm = pytest.importorskip("ray.serve.llm", reason="Ray Serve LLM comes with ray[serve]")
    from mogu.serving.ray import MoguServer

    config = llm.LLMConfig.model_validate(ray_llm())
    assert config.model_dump(exclude_unset=True).keys() >= ray_llm().keys(), "the schema drops names that it does not know"
    assert config.server_cls is MoguServer
    engine = config.get_engine_config()  # tells options of vLLM's engine and of its API apart, and refuses others
    assert engine.frontend_kwargs.keys() == {"lora_modules"}
    assert engine.engine_kwargs.keys() == ray_llm()["engine_kwargs"].keys() - {"lora_modules"}


def test_vllm_accepts_rays_arguments_of_the_api():
    pytest.importorskip("vllm", reason="vLLM's arguments come with vLLM")
    [module] = cli_args().FrontendArgs(lora_modules=ray_llm()["engine_kwargs"]["lora_modules"]).lora_modules
    assert (module.name, module.path) == ("safer-model", "/models/safer-model")


def test_ray_gives_slots_of_the_size_that_mogu_serve_gives(saved_model, monkeypatch):
    arguments = vllm_arguments(resource("Deployment"), saved_model, monkeypatch)
    engine = ray_llm()["engine_kwargs"]
    assert value_of("--max-lora-rank", arguments) == str(engine["max_lora_rank"])
    assert value_of("--max-loras", arguments) == str(engine["max_loras"])
    assert [value_of("--lora-target-modules", arguments)] == engine["lora_target_modules"]


def test_images_are_those_of_the_dockerfile():
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    assert container(resource("Deployment"))["image"].partition(":")[0] in dockerfile
    assert "FROM vllm/vllm-openai:v0.32.0 AS vllm" in dockerfile
    user = str(resource("Deployment")["spec"]["template"]["spec"]["securityContext"]["runAsUser"])
    assert f"USER {user}" in dockerfile


def value_of(option: str, arguments: list[str], default: str | None = None) -> str | None:
    return next((value for name, value in pairwise(arguments) if name == option), default)


def vllm_arguments(deployment: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What `mogu serve` hands to vLLM's command line when it is started as the container starts it."""
    server, started = container(deployment), []
    assert server["command"] == ["mogu"]
    assert server["args"][:2] == ["serve", "/models/safer-model"]
    monkeypatch.setattr("mogu.serving.plugin.installed_version", lambda: "0.32.0")
    monkeypatch.setattr(os, "execve", lambda *arguments: started.append(arguments))
    monkeypatch.delenv("MOGU_LOCKED", raising=False)
    result = CliRunner().invoke(app, ["serve", str(folder), *server["args"][2:]], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    [(program, arguments, environment)] = started
    assert environment["MOGU_LOCKED"] == "1"
    assert program == sys.executable
    assert arguments[1:4] == ["-P", "-m", "mogu.serving.launch"]
    return arguments[4:]
