package server

import (
	"github.com/prometheus/client_golang/prometheus"

	"kigo/engine"
)

// statsCollector reads the engine's own counts at each scrape: what happens between
// a request's submission and its tokens, where no client and no network is.
type statsCollector struct{ engine backend }

var (
	descStepTime   = desc("kigo_engine_step_seconds", "Time of a step of the device, by what its rows are: prefill, decode, or mixed.", "phase")
	descStepRows   = desc("kigo_engine_step_rows", "Rows (tokens) of a step, by what they are: prefill, decode, or mixed.", "phase")
	descStepSeqs   = desc("kigo_engine_step_sequences", "Sequences that a step has rows of.")
	descAhead      = desc("kigo_engine_steps_ahead_total", "Steps that began while the one before them was under way, so that the device did not wait.")
	descMissed     = desc("kigo_engine_missed_tokens_total", "Tokens that were computed again, because a step that began early went on with one that was barred.")
	descPrompt     = desc("kigo_engine_prompt_tokens_total", "Tokens of the prompts of requests that have had a step.")
	descComputed   = desc("kigo_engine_computed_prompt_tokens_total", "Prompt tokens that steps have computed; those from the prefix cache are none.")
	descQueries    = desc("kigo_prefix_cache_queries_total", "Prompt tokens that were looked for in the prefix cache.")
	descHits       = desc("kigo_prefix_cache_hits_total", "Prompt tokens that the prefix cache had.")
	descPreempted  = desc("kigo_preemptions_total", "Times that a running request has lost its KV blocks to others.")
	descRefused    = desc("kigo_kv_refused_total", "Times that the device had no memory for a KV cache that wanted to grow.")
	descQueue      = desc("kigo_engine_queue_seconds", "From a request's submission to its first step.")
	descFirst      = desc("kigo_engine_time_to_first_token_seconds", "From a request's submission to its first token.")
	descBetween    = desc("kigo_engine_time_between_tokens_seconds", "From a token of a request to the next, as they are made.")
	descRequest    = desc("kigo_engine_request_seconds", "From a request's submission to its end, however it ends.")
	descCancel     = desc("kigo_engine_cancel_seconds", "From a cancel, a disconnect or a deadline to the free slot.")
	descEnded      = desc("kigo_engine_requests_total", "Requests that were admitted and have ended, by how.", "outcome")
	descKVShare    = desc("kigo_kv_usage_ratio", "Share of the KV blocks in use, 0 to 1.")
	descVQueries   = desc("vllm:prefix_cache_queries_total", "Prompt tokens that were looked for in the prefix cache.", "model_name")
	descVHits      = desc("vllm:prefix_cache_hits_total", "Prompt tokens that the prefix cache had.", "model_name")
	descVPreempted = desc("vllm:num_preemptions_total", "Times that a running request has lost its KV blocks to others.", "model_name")
	descVPrompt    = desc("vllm:prompt_tokens_total", "Tokens of the prompts of requests that have had a step.", "model_name")
	descVGenerated = desc("vllm:generation_tokens_total", "Tokens generated.", "model_name")
	allStatsDesc   = []*prometheus.Desc{
		descStepTime, descStepRows, descStepSeqs, descAhead, descMissed, descPrompt, descComputed, descQueries, descHits, descPreempted, descRefused, descQueue, descFirst, descBetween,
		descRequest, descCancel, descEnded, descKVShare, descVQueries, descVHits, descVPreempted, descVPrompt, descVGenerated,
	}
)

// Describe is prometheus.Collector's.
func (c *statsCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range allStatsDesc {
		out <- d
	}
}

// Collect is prometheus.Collector's.
func (c *statsCollector) Collect(out chan<- prometheus.Metric) {
	s, st := c.engine.Stats(), c.engine.Status()
	counter := func(d *prometheus.Desc, value uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value), labels...)
	}
	histogram := func(d *prometheus.Desc, h engine.Distribution, labels ...string) {
		out <- prometheus.MustNewConstHistogram(d, h.Count, h.Sum, h.Buckets, labels...)
	}
	for p := range engine.StepPhases {
		histogram(descStepTime, s.StepTime[p].Read(), p.String())
		histogram(descStepRows, s.StepRows[p].Read(), p.String())
	}
	histogram(descStepSeqs, s.StepSeqs.Read())
	counter(descAhead, s.StepsAhead.Load())
	counter(descMissed, s.Missed.Load())
	histogram(descQueue, s.Queue.Read())
	histogram(descFirst, s.FirstToken.Read())
	histogram(descBetween, s.BetweenTokens.Read())
	histogram(descRequest, s.Request.Read())
	histogram(descCancel, s.Cancel.Read())
	for o := range engine.RequestOutcomes {
		counter(descEnded, s.Ended[o].Load(), o.String())
	}
	prompt, queries, hits, preempted := s.PromptTokens.Load(), s.PrefixQueries.Load(), s.PrefixHits.Load(), s.Preemptions.Load()
	counter(descPrompt, prompt)
	counter(descComputed, s.ComputedTokens.Load())
	counter(descQueries, queries)
	counter(descHits, hits)
	counter(descPreempted, preempted)
	counter(descRefused, s.KVRefused.Load())
	out <- prometheus.MustNewConstMetric(descKVShare, prometheus.GaugeValue, kvShare(st))
	if st.Model == nil {
		return
	}
	name := publicText(st.Model.Name)
	counter(descVQueries, queries, name)
	counter(descVHits, hits, name)
	counter(descVPreempted, preempted, name)
	counter(descVPrompt, prompt, name)
	counter(descVGenerated, st.Tokens, name)
}
