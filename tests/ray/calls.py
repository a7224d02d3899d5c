"""deploy/ray/app.py under a real Ray on this machine: run by test_ray.py, in Ray's environment.

python calls.py MODEL PORT
"""

import json
import os
import sys
import urllib.error
import urllib.request
from io import BytesIO

import numpy as np

ROWS = np.linspace(-1, 1, 20, dtype=np.float32).reshape(2, 10)


def sent(port: int, body: bytes, kind: str) -> tuple[int, bytes, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/", body, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read(), answer.headers["content-type"]
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers["content-type"]


def main(model: str, port: int) -> None:
    os.environ |= {"LOADSTONE_MODEL": model, "LOADSTONE_REPLICAS": "2"}
    import ray
    from ray import serve

    from deploy.ray.app import app

    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"port": port, "host": "127.0.0.1"})
    serve.run(app)
    deployment = serve.status().applications["default"].deployments["Loadstone"]
    assert deployment.replica_states == {"RUNNING": 2}, deployment
    answers = [sent(port, json.dumps({"data": ROWS.tolist()}).encode(), "application/json") for _ in range(8)]
    assert {status for status, _, _ in answers} == {200}
    file = BytesIO()
    np.save(file, ROWS)
    status, body, kind = sent(port, file.getvalue(), "application/x-npy")
    assert (status, kind) == (200, "application/x-npy")
    wrong = sent(port, b'{"data": [[1]]}', "application/json")
    print(
        json.dumps(
            {
                "json": json.loads(answers[0][1])["predictions"],
                "npy": np.load(BytesIO(body)).tolist(),
                "wrong": [wrong[0], json.loads(wrong[1])["error"]["code"]],
            }
        )
    )
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
