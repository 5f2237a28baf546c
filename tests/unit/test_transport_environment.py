import subprocess
import sys

from server.transports.environment import prepare


def test_what_the_operator_has_set_stays():
    environ = {"GRPC_VERBOSITY": "DEBUG"}
    prepare(environ)

    assert environ == {"GRPC_VERBOSITY": "DEBUG", "GRPC_EXPERIMENTS": "-event_engine_listener,-event_engine_client"}


def test_the_environment_is_prepared_before_grpc_is_imported():
    program = "import sys, server.transports.environment; sys.exit('grpc' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_prepared_process_serves_and_keeps_quiet_about_it():
    program = (
        "import os; from server.transports.environment import prepare; prepare(os.environ);"
        "from server.transports.selfcheck import selfcheck; selfcheck()"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
