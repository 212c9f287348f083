#!/usr/bin/python3
"""tests/install/manifests.py BUILD: the Kubernetes manifests are what the API accepts (members, types, what is needed:
by the models of the Kubernetes client), fit together, and name only variables, ports and paths that exist.
Exit status 77: a module is missing."""
import os
import pathlib
import re
import subprocess
import sys
import tempfile

try:
    import kubernetes.client
    import yaml
except ImportError as e:
    print(f"skipped: {e}")
    sys.exit(77)

ROOT = pathlib.Path(__file__).resolve().parents[2]
SUPERVISOR = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build") / "triggerflow-supervisor"
MODELS = {("v1", "ConfigMap"): "V1ConfigMap", ("v1", "Secret"): "V1Secret", ("v1", "Service"): "V1Service",
          ("apps/v1", "StatefulSet"): "V1StatefulSet"}
PRIMITIVES = {"str": str, "int": int, "bool": bool, "float": (int, float)}
errors = []


def check(good, text):
    if not good:
        errors.append(text)


def validate(value, kind, path):
    """Checks a value against a type of the Kubernetes API as its client names it."""
    if kind in ("object", "datetime"):
        return
    if kind in PRIMITIVES:
        # A bool is an int for Python, but not for the API.
        good = isinstance(value, PRIMITIVES[kind]) and (kind == "bool" or not isinstance(value, bool))
        check(good, f"{path}: {value!r} is not of the type {kind}")
    elif kind.startswith("list["):
        check(isinstance(value, list), f"{path}: not a list")
        for i, element in enumerate(value if isinstance(value, list) else []):
            validate(element, kind[5:-1], f"{path}[{i}]")
    elif kind.startswith("dict("):
        check(isinstance(value, dict), f"{path}: not an object")
        for key, element in (value if isinstance(value, dict) else {}).items():
            validate(element, kind[5:-1].split(", ", 1)[1], f"{path}.{key}")
    else:
        validate_model(value, getattr(kubernetes.client, kind), path)


def validate_model(value, model, path):
    check(isinstance(value, dict), f"{path}: not an object")
    if not isinstance(value, dict):
        return
    names = {json: name for name, json in model.attribute_map.items()}
    for member, element in value.items():
        check(member in names, f"{path}.{member}: {model.__name__} has no such member")
        if member in names:
            validate(element, model.openapi_types[names[member]], f"{path}.{member}")
    try:  # the constructor knows what is needed, and which values are allowed
        model(**{names[m]: e for m, e in value.items() if m in names})
    except (ValueError, TypeError) as e:
        errors.append(f"{path}: {e}")


def load():
    kustomization = yaml.safe_load((ROOT / "kubernetes/kustomization.yaml").read_text())
    files = {p.name for p in (ROOT / "kubernetes").glob("*.yaml")} - {"kustomization.yaml"}
    check(set(kustomization["resources"]) == files, f"kustomization.yaml names {kustomization['resources']}")
    documents = {}
    for name in sorted(files):
        for document in yaml.safe_load_all((ROOT / "kubernetes" / name).read_text()):
            key = (document.get("apiVersion"), document.get("kind"))
            check(key in MODELS, f"{name}: {key} is not expected")
            if key in MODELS:
                validate(document, MODELS[key], name)
                documents[document["kind"]] = document
    return documents


def seconds(text):
    value, unit = re.fullmatch(r"([0-9.]+)(ms|s|min|h)?", str(text)).groups()
    return float(value) * {"ms": 0.001, None: 1, "s": 1, "min": 60, "h": 3600}[unit]


def check_together(documents):
    config_map, secret, service, stateful = (documents[k] for k in ("ConfigMap", "Secret", "Service", "StatefulSet"))
    config = yaml.safe_load(config_map["data"]["config_map.yaml"])
    template = stateful["spec"]["template"]
    pod = template["spec"]
    container = pod["containers"][0]
    labels = template["metadata"]["labels"]
    for where, selector in (("Service", service["spec"]["selector"]),
                            ("StatefulSet", stateful["spec"]["selector"]["matchLabels"])):
        check(selector.items() <= labels.items(), f"{where}: its selector {selector} does not find {labels}")
    check(stateful["spec"]["serviceName"] == service["metadata"]["name"], "serviceName is not the Service")
    check(stateful["spec"]["replicas"] == 1, "more than one replica")

    ports = {p["name"]: p["containerPort"] for p in container["ports"]}
    check(ports == {"api": config["trigger_api"]["port"], "controller": config["triggerflow_controller"]["port"]},
          f"containerPorts {ports} are not those of config_map.yaml")
    for port in service["spec"]["ports"]:
        check(port["targetPort"] in ports and ports.get(port["targetPort"]) == port["port"],
              f"Service: port {port} is none of {ports}")
    for probe, path in (("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        get = container[probe]["httpGet"]
        check(get == {"path": path, "port": "controller"}, f"{probe}: {get}")
    grace = pod["terminationGracePeriodSeconds"]
    check(grace >= seconds(config["supervisor"]["stop_timeout"]) + 15, f"terminationGracePeriodSeconds {grace} is short")

    help_text = subprocess.run([SUPERVISOR, "--help"], check=True, capture_output=True, text=True).stdout
    known = set(re.findall(r"[A-Z][A-Z_]{3,}", help_text)) | {"TRIGGERFLOW_CONFIG_MAP_FILE", "CREATE_ADMIN_USER"}
    for variable in container["env"]:
        check(variable["name"] in known, f"the variable {variable['name']} is none of the configuration's")
        reference = variable.get("valueFrom", {}).get("secretKeyRef")
        if reference:
            check(reference["name"] == secret["metadata"]["name"] and reference["key"] in secret["stringData"],
                  f"{variable['name']}: no such secret: {reference}")

    volumes = {v["name"] for v in pod["volumes"]} | {c["metadata"]["name"] for c in
                                                     stateful["spec"]["volumeClaimTemplates"]}
    mounts = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
    check(set(mounts) == volumes, f"mounted are {sorted(mounts)} of {sorted(volumes)}")
    dockerfile = (ROOT / "Dockerfile").read_text()
    for name, path in (("state", re.search(r"TRIGGERFLOW_STATE_DIRECTORY=(\S+)", dockerfile)[1]),
                       ("run", re.search(r"TRIGGERFLOW_RUN_DIRECTORY=(\S+)", dockerfile)[1]),
                       ("config", container["env"][0]["value"])):
        check(path.startswith(mounts[name] + "/"), f"{path} is not below the volume {name}, {mounts[name]}")
    user = re.search(r"^USER (\d+):(\d+)$", dockerfile, re.M)
    context = pod["securityContext"]
    check((str(context["runAsUser"]), str(context["runAsGroup"])) == user.groups(), "not the user of the image")


def check_security(documents):
    pod = documents["StatefulSet"]["spec"]["template"]["spec"]
    container = pod["containers"][0]["securityContext"]
    check(pod["securityContext"]["runAsNonRoot"] is True, "runs as root")
    check(pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, "no seccomp profile")
    check(container == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]}}, f"securityContext {container}")


def check_configuration(documents):
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / "config_map.yaml"
        path.write_text(documents["ConfigMap"]["data"]["config_map.yaml"])
        run = subprocess.run([SUPERVISOR, "status", "--config", path, "--run-directory", directory],
                             capture_output=True, text=True, env={"PATH": os.environ["PATH"]}, check=False)
        check(run.returncode == 3, f"config_map.yaml is refused: {run.stderr}")  # 3: read, but nothing runs there


def check_validator():
    """It finds what it is there for."""
    before = list(errors)
    for document, kind in (({"kind": "Service", "spec": {"prots": []}}, "V1Service"),
                           ({"spec": {"ports": [{"name": "x"}]}}, "V1Service"),
                           ({"spec": {"replicas": "1", "selector": {}, "serviceName": "x", "template": {}}},
                            "V1StatefulSet")):
        count = len(errors)
        validate(document, kind, "validator")
        found = len(errors) > count
        del errors[len(before):]
        check(found, f"the validator accepts {document}")
        before = list(errors)


check_validator()
loaded = load()
if not errors:
    check_together(loaded)
    check_security(loaded)
    check_configuration(loaded)
for error in errors:
    print(f"failed: {error}")
print(f"{len(loaded)} manifests, {len(errors)} errors")
sys.exit(1 if errors else 0)
