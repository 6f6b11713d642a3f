"""What vLLM tells at /metrics, over several engines and restarts."""

from __future__ import annotations

from imc_agents.models.protocol import EngineWork
from imc_agents.models.vllm_metrics import WorkCounter, read_metrics

TEXT = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 2.0
vllm:num_requests_waiting{engine="0",model_name="m"} 7.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 7.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:prompt_tokens_total{engine="0",model_name="m"} 1.591445e+06
vllm:prompt_tokens_created{engine="0",model_name="m"} 1.7953858914749894e+09
vllm:prompt_tokens_cached_total{engine="0",model_name="m"} 1.310592e+06
vllm:generation_tokens_total{engine="0",model_name="m"} 552.0
vllm:prefix_cache_queries_total{engine="0",model_name="m"} 1.591287e+06
"""


def test_figures_are_summed_over_the_engines() -> None:
    state = read_metrics(TEXT)
    assert state is not None
    assert (state.running, state.waiting, state.kv_cache) == (5, 7, 0.25)
    assert state.work == EngineWork(1_591_445, 1_310_592, 552, 1_591_287)
    assert state.work.computed_tokens == 1_591_445 - 1_310_592 + 552
    assert state.work.hit_rate is not None
    assert round(state.work.hit_rate, 3) == 0.824


def test_a_server_that_is_no_vllm_has_no_figures() -> None:
    assert read_metrics("process_cpu_seconds_total 3.0\n") is None
    assert read_metrics("") is None


def test_work_is_counted_from_the_first_look_and_over_a_restart() -> None:
    counter = WorkCounter()
    counter.see("a", EngineWork(1000, 500, 10, 900))
    assert counter.done["a"] == EngineWork(0, 0, 0, 0)
    counter.see("a", EngineWork(1500, 800, 20, 1300))
    counter.see("a", EngineWork(100, 50, 5, 90))  # it was started again
    assert counter.done["a"] == EngineWork(600, 350, 15, 490)


def test_nothing_looked_up_is_no_hit_rate() -> None:
    assert EngineWork(10, 0, 0, 0).hit_rate is None
