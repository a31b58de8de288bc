package server

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"kigo/engine"
	kigov1 "kigo/proto/kigo/v1"
)

// What the engine reports, as the API says it.

func startedEvent(s engine.Started, correlation string) *kigov1.ExecuteResponse {
	return &kigov1.ExecuteResponse{Event: &kigov1.ExecuteResponse_Started{Started: &kigov1.Started{
		RequestId:     s.ID,
		CorrelationId: correlation,
		Model:         s.Model,
		PromptTokens:  int32(s.PromptTokens),
		Seed:          s.Seed,
	}}}
}

func tokensEvent(t *engine.Tokens) *kigov1.ExecuteResponse {
	return &kigov1.ExecuteResponse{Event: &kigov1.ExecuteResponse_Tokens{Tokens: &kigov1.Tokens{
		Sample:   int32(t.Sample),
		Index:    int32(t.Index),
		Ids:      t.IDs,
		Text:     t.Text,
		Logprobs: logprobs(t.Logprobs),
	}}}
}

func logprobs(list []engine.TokenLogprob) []*kigov1.TokenLogprob {
	var out []*kigov1.TokenLogprob
	for _, l := range list {
		p := &kigov1.TokenLogprob{Id: l.ID, Piece: l.Bytes, Logprob: l.Logprob}
		for _, alt := range l.Top {
			p.Top = append(p.Top, &kigov1.TopLogprob{Id: alt.ID, Piece: alt.Bytes, Logprob: alt.Logprob})
		}
		out = append(out, p)
	}
	return out
}

func endEvent(e *engine.End) *kigov1.ExecuteResponse {
	out := &kigov1.End{
		StopReason:      stopReason(e.Reason),
		StopText:        e.StopText,
		PromptTokens:    int32(e.PromptTokens),
		GeneratedTokens: int32(e.GeneratedTokens),
		Timings:         timings(e),
	}
	if e.StopID >= 0 {
		out.StopId = &e.StopID
	}
	for _, one := range e.Samples {
		s := &kigov1.SampleEnd{
			StopReason:      stopReason(one.Reason),
			StopText:        one.StopText,
			GeneratedTokens: int32(one.GeneratedTokens),
			Timings:         timings(one),
		}
		if one.StopID >= 0 {
			s.StopId = &one.StopID
		}
		out.Samples = append(out.Samples, s)
	}
	return &kigov1.ExecuteResponse{Event: &kigov1.ExecuteResponse_End{End: out}}
}

func timings(e *engine.End) *kigov1.Timings {
	return &kigov1.Timings{
		Queued:  durationpb.New(e.Queued),
		Prefill: durationpb.New(e.Prefill),
		Decode:  durationpb.New(e.Decode),
	}
}

func stopReason(r engine.StopReason) kigov1.StopReason {
	switch r {
	case engine.StopMaxTokens:
		return kigov1.StopReason_STOP_REASON_MAX_TOKENS
	case engine.StopEnd:
		return kigov1.StopReason_STOP_REASON_END
	case engine.StopSequence:
		return kigov1.StopReason_STOP_REASON_SEQUENCE
	case engine.StopCancelled:
		return kigov1.StopReason_STOP_REASON_CANCELLED
	}
	return kigov1.StopReason_STOP_REASON_UNSPECIFIED
}

func loadProgress(p engine.LoadProgress) *kigov1.LoadResponse {
	return &kigov1.LoadResponse{Event: &kigov1.LoadResponse_Progress{Progress: &kigov1.LoadProgress{
		Stage:          loadStage(p.Stage),
		BytesDone:      p.BytesDone,
		BytesTotal:     p.BytesTotal,
		TensorsDone:    int32(p.TensorsDone),
		TensorsTotal:   int32(p.TensorsTotal),
		BytesPerSecond: p.BytesPerSec,
		Elapsed:        durationpb.New(p.Elapsed),
	}}}
}

func loadStage(s engine.LoadStage) kigov1.LoadStage {
	switch s {
	case engine.StageParse:
		return kigov1.LoadStage_LOAD_STAGE_PARSE
	case engine.StageRead:
		return kigov1.LoadStage_LOAD_STAGE_READ
	case engine.StageVerify:
		return kigov1.LoadStage_LOAD_STAGE_VERIFY
	case engine.StageCompile:
		return kigov1.LoadStage_LOAD_STAGE_COMPILE
	case engine.StageWarmUp:
		return kigov1.LoadStage_LOAD_STAGE_WARM_UP
	case engine.StageDone:
		return kigov1.LoadStage_LOAD_STAGE_DONE
	}
	return kigov1.LoadStage_LOAD_STAGE_UNSPECIFIED
}

func modelMessage(m *engine.ModelInfo) *kigov1.Model {
	if m == nil {
		return nil
	}
	out := &kigov1.Model{
		Name:               publicText(m.Name),
		Architecture:       publicText(m.Architecture),
		Description:        publicText(m.Description),
		Parameters:         m.Parameters,
		Quantization:       m.Quantization,
		ContextLength:      int32(m.ContextLength),
		TrainContextLength: int32(m.TrainContext),
		Vocabulary:         int32(m.Vocabulary),
		Tokenizer:          publicText(m.Tokenizer),
		ChatTemplate:       m.ChatTemplate,
		Tensors:            int32(m.Tensors),
		Memory: &kigov1.MemoryUse{
			Weights:    m.Memory.Weights,
			Kv:         m.Memory.KV,
			KvReserved: m.Memory.KVReserved,
			Scratch:    m.Memory.Scratch,
		},
		Load: &kigov1.LoadTimes{
			Parse:      durationpb.New(m.Load.Parse),
			Tokenizer:  durationpb.New(m.Load.Tokenizer),
			Read:       durationpb.New(m.Load.Read),
			Verify:     durationpb.New(m.Load.Verify),
			Compile:    durationpb.New(m.Load.Compile),
			FirstToken: durationpb.New(m.Load.FirstToken),
			Total:      durationpb.New(m.Load.Total),
		},
		Verified: m.Verified,
		LoadedAt: timestamppb.New(m.LoadedAt),
	}
	for _, w := range m.Warnings {
		out.Warnings = append(out.Warnings, publicText(w))
	}
	return out
}

func healthMessage(st engine.Status, v verdict, draining bool, version string, now time.Time) *kigov1.HealthResponse {
	out := &kigov1.HealthResponse{
		Status:  healthStatus(st.State),
		Reason:  publicText(st.Reason),
		Live:    v.live,
		Ready:   v.ready,
		Version: version,
		Model:   modelMessage(st.Model),
		Device: &kigov1.Device{
			Kind:        st.Device.Kind,
			Name:        st.Device.Name,
			Threads:     int32(st.Device.Threads),
			MemoryUsed:  st.Device.MemoryUsed,
			MemoryFree:  st.Device.MemoryFree,
			MemoryTotal: st.Device.MemoryTotal,
		},
		StartedAt:       timestamppb.New(st.Started),
		Uptime:          durationpb.New(now.Sub(st.Started)),
		Running:         int32(st.Running),
		Waiting:         int32(st.Waiting),
		KvBlocksUsed:    int32(st.KVUsed),
		KvBlocksMapped:  int32(st.KVMapped),
		KvBlocksTotal:   int32(st.KVTotal),
		Steps:           st.Steps,
		GeneratedTokens: st.Tokens,
	}
	// The edge is the first to know that the server shuts down.
	if draining && st.State != engine.StateFailed {
		out.Status = kigov1.HealthStatus_HEALTH_STATUS_DRAINING
		out.Reason = engine.ErrDraining.Error()
	}
	return out
}

func healthStatus(s engine.State) kigov1.HealthStatus {
	switch s {
	case engine.StateEmpty:
		return kigov1.HealthStatus_HEALTH_STATUS_EMPTY
	case engine.StateLoading:
		return kigov1.HealthStatus_HEALTH_STATUS_LOADING
	case engine.StateReady:
		return kigov1.HealthStatus_HEALTH_STATUS_READY
	case engine.StateDraining:
		return kigov1.HealthStatus_HEALTH_STATUS_DRAINING
	case engine.StateFailed:
		return kigov1.HealthStatus_HEALTH_STATUS_FAILED
	}
	return kigov1.HealthStatus_HEALTH_STATUS_UNSPECIFIED
}
