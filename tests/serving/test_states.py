from builder.serving.states import ModelState, from_index, reasons_in_log

# Lines of a real server's log (2.51).
LOG = """\
E1121 06:49:54.014591 5152 model_repository_manager.cc:1323] "failed to poll model 'dup': not \
unique across all model repositories"
[libprotobuf ERROR /tmp/text_format.cc:337] Error parsing text-format inference.ModelConfig: \
1:10: Expected string, got: [
E1121 06:49:54.015500 5152 model_repository_manager.cc:1460] "Poll failed for model directory \
'garbled': failed to read text proto from repo2/garbled/config.pbtxt"
E1121 06:49:54.015822 5152 model_repository_manager.cc:724] "failed to load model 'noversion': \
at least one version must be available under the version policy of model 'noversion'"
E1121 06:58:36.02 6575 model_repository_manager.cc:703] "Invalid argument: ensemble 'pipe' \
depends on 'broken' which has no loaded version. Model 'broken' loading failed with error: ...;"
"""


def test_reasons_are_read_from_the_log() -> None:
    reasons = reasons_in_log(LOG)
    assert reasons["dup"] == "not unique across all model repositories"
    assert reasons["garbled"] == "config.pbtxt: 1:10: Expected string, got: ["
    assert "at least one version" in reasons["noversion"]


def test_the_log_completes_the_index_and_causes_come_first() -> None:
    index = [
        {"name": "pipe", "version": "", "state": "UNAVAILABLE", "reason": ""},
        {"name": "good", "version": "2", "state": "READY"},
        {"name": "garbled"},
        {"name": "unasked"},
        {
            "name": "broken",
            "version": "1",
            "state": "UNAVAILABLE",
            "reason": "Internal: ValueError: no file\n\nAt:\n  /x/model.py(3): load\n",
        },
    ]
    states = from_index(index, ["pipe", "good", "garbled", "broken", "noversion"], LOG)
    assert [s.name for s in states] == ["broken", "garbled", "noversion", "pipe", "good"]
    by_name = {s.name: s for s in states}
    assert by_name["broken"].reason == "no file"
    assert by_name["garbled"].reason.startswith("config.pbtxt: 1:10")
    assert by_name["pipe"].reason == "needs broken, which did not load"
    assert by_name["good"] == ModelState("good", "2", "READY")


def test_a_model_that_nobody_mentions_still_gets_a_reason() -> None:
    (state,) = from_index([], ["lost"])
    assert not state.ready
    assert "--log-level info" in state.reason
