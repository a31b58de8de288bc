package server

import (
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"kigo/engine"
)

// metrics is one server's registry: the calls as they end, and the engine's
// own counts, read when somebody asks.
type metrics struct {
	registry *prometheus.Registry
	grpc     *grpcMetrics
	http     *prometheus.CounterVec
	ends     *prometheus.CounterVec
	prompt   prometheus.Counter
	panics   prometheus.Counter

	// Seconds, over the Execute requests that came to their end; call counts
	// those that ended with an error as well.
	firstToken, betweenTokens     prometheus.Histogram
	queued, prefill, decode, call prometheus.Histogram

	// Tokens of each Execute request that was admitted.
	promptSize, generatedSize prometheus.Histogram

	genAI *genAIMetrics
}

// seconds is a histogram from 0.1 ms to 210 s.
func seconds(name, help string) prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(0.0001, 2, 22),
	})
}

// tokenCounts is a histogram from 1 to 131,072 tokens.
func tokenCounts(name, help string) prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(1, 2, 18),
	})
}

func newMetrics(b backend, p *probe) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		grpc:     newGRPCMetrics(),
		http: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kigo_http_requests_total", Help: "HTTP requests that have ended.",
		}, []string{"route", "code"}),
		ends: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kigo_requests_total", Help: "Execute requests that have ended, by how: a stop reason, or the error's reason.",
		}, []string{"end"}),
		prompt: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kigo_prompt_tokens_total", Help: "Tokens of the prompts of Execute requests that were admitted.",
		}),
		firstToken:    seconds("kigo_time_to_first_token_seconds", "From an Execute request's arrival to its first token."),
		betweenTokens: seconds("kigo_time_between_tokens_seconds", "From one token of an Execute request to the next, as they reach the edge."),
		queued:        seconds("kigo_queue_seconds", "From an Execute request's admission to its first step."),
		prefill:       seconds("kigo_prefill_seconds", "From an Execute request's first step to its first token."),
		decode:        seconds("kigo_decode_seconds", "From an Execute request's first token to its last."),
		call:          seconds("kigo_request_duration_seconds", "From an Execute request's arrival to its end, however it ends."),
		promptSize:    tokenCounts("kigo_request_prompt_tokens", "Prompt tokens of an Execute request that was admitted."),
		generatedSize: tokenCounts("kigo_request_generated_tokens", "Tokens that an Execute request generated before it ended."),
		genAI:         newGenAIMetrics(),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kigo_panics_total", Help: "Panics that were caught in handlers.",
		}),
	}
	m.registry.MustRegister(m.grpc.collectors()...)
	m.registry.MustRegister(
		m.http, m.ends, m.prompt, m.panics,
		m.firstToken, m.betweenTokens, m.queued, m.prefill, m.decode, m.call, m.promptSize, m.generatedSize,
		m.genAI.duration, m.genAI.firstToken, m.genAI.perToken,
		&engineCollector{engine: b, probe: p}, &statsCollector{engine: b},
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry})
}

// observe counts an Execute request that has ended.
func (m *metrics) observe(c *call, err error) {
	end := stopName(c.stop)
	if err != nil {
		end = failureOf(err).reason
	}
	m.ends.WithLabelValues(end).Inc()
	m.prompt.Add(float64(c.prompt))
	if c.request != "" {
		m.promptSize.Observe(float64(c.prompt))
		m.generatedSize.Observe(float64(c.generated))
	}
	if c.firstToken > 0 {
		m.firstToken.Observe(c.firstToken.Seconds())
	}
	m.call.Observe(c.took.Seconds())
	m.genAI.observe(c, err)
	if c.end == nil {
		return
	}
	for _, e := range c.end.Answers() {
		m.queued.Observe(e.Queued.Seconds())
		m.prefill.Observe(e.Prefill.Seconds())
		m.decode.Observe(e.Decode.Seconds())
	}
}

// observeHTTP counts an HTTP request that has ended. route is a pattern of the
// mux, so that a stranger's paths make no series.
func (m *metrics) observeHTTP(route string, code int) {
	m.http.WithLabelValues(route, strconv.Itoa(code)).Inc()
}

// engineCollector reads the engine's status at each scrape.
type engineCollector struct {
	engine backend
	probe  *probe
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

// The engine's numbers under Kigo's own names, and under those that routers
// over many replicas read.
var (
	descReady     = desc("kigo_ready", "1 when requests are served.")
	descLive      = desc("kigo_live", "1 unless the device has failed or hangs.")
	descRunning   = desc("kigo_requests_running", "Requests that take part in steps.")
	descWaiting   = desc("kigo_requests_waiting", "Requests in the queue.")
	descKVUsed    = desc("kigo_kv_blocks_used", "KV blocks in use.")
	descKVTotal   = desc("kigo_kv_blocks", "KV blocks in all.")
	descKVMapped  = desc("kigo_kv_blocks_mapped", "KV blocks that there is memory for at present.")
	descKVShort   = desc("kigo_kv_short", "1 when the device had no memory for more KV blocks when it was asked last.")
	descKVBytes   = desc("kigo_kv_memory_bytes", "Device memory that the KV cache takes at present.")
	descKVMost    = desc("kigo_kv_reserved_bytes", "Device memory that the KV cache takes at most.")
	descSteps     = desc("kigo_steps_total", "Steps of the device.")
	descTokens    = desc("kigo_generated_tokens_total", "Tokens generated.")
	descMemory    = desc("kigo_device_memory_bytes", "Device memory that the server holds.")
	descModel     = desc("kigo_model_info", "The loaded model.", "model_name", "architecture", "quantization")
	descVRunning  = desc("vllm:num_requests_running", "Requests that take part in steps.", "model_name")
	descVWaiting  = desc("vllm:num_requests_waiting", "Requests in the queue.", "model_name")
	descVKV       = desc("vllm:kv_cache_usage_perc", "Share of the KV blocks in use, 0 to 1.", "model_name")
	descVConfig   = desc("vllm:cache_config_info", "The KV cache: tokens of a block, and blocks.", "block_size", "num_gpu_blocks")
	allEngineDesc = []*prometheus.Desc{
		descReady, descLive, descRunning, descWaiting, descKVUsed, descKVTotal, descKVMapped, descKVShort, descKVBytes, descKVMost, descSteps, descTokens,
		descMemory, descModel, descVRunning, descVWaiting, descVKV, descVConfig,
	}
)

// Describe is prometheus.Collector's.
func (c *engineCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range allEngineDesc {
		out <- d
	}
}

// Collect is prometheus.Collector's.
func (c *engineCollector) Collect(out chan<- prometheus.Metric) {
	st, v := c.engine.Status(), c.probe.verdict()
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	counter := func(d *prometheus.Desc, value uint64) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value))
	}
	gauge(descReady, boolGauge(v.ready))
	gauge(descLive, boolGauge(v.live))
	gauge(descRunning, float64(st.Running))
	gauge(descWaiting, float64(st.Waiting))
	gauge(descKVUsed, float64(st.KVUsed))
	gauge(descKVTotal, float64(st.KVTotal))
	gauge(descKVMapped, float64(st.KVMapped))
	gauge(descKVShort, boolGauge(st.KVShort))
	counter(descSteps, st.Steps)
	counter(descTokens, st.Tokens)
	gauge(descMemory, float64(st.Device.MemoryUsed))
	if st.Model == nil {
		return
	}
	gauge(descKVBytes, float64(st.Model.Memory.KV))
	gauge(descKVMost, float64(st.Model.Memory.KVReserved))
	name := publicText(st.Model.Name)
	gauge(descModel, 1, name, publicText(st.Model.Architecture), st.Model.Quantization)
	gauge(descVRunning, float64(st.Running), name)
	gauge(descVWaiting, float64(st.Waiting), name)
	gauge(descVKV, kvShare(st), name)
	gauge(descVConfig, 1, strconv.Itoa(st.KVTokens), strconv.Itoa(st.KVTotal))
}

func boolGauge(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// kvShare is the share of the KV blocks in use, 0 to 1: of all that there can be at
// present.
func kvShare(st engine.Status) float64 {
	all := st.KVTotal
	if st.KVShort {
		all = st.KVMapped
	}
	if all == 0 {
		return 0
	}
	return float64(st.KVUsed) / float64(all)
}
