package loadtest

import (
	kigov1 "kigo/proto/kigo/v1"
)

// eventKind is which event of ExecuteResponse it is.
type eventKind int

const (
	noEvent eventKind = iota
	startedEvent
	tokensEvent
	metricsEvent
	endEvent
)

// event is what is needed of an ExecuteResponse.
type event struct {
	kind      eventKind
	requestID string            // started
	prompt    int               // started
	index     int               // tokens
	ids       int               // tokens: how many
	generated int               // end
	stop      kigov1.StopReason // end
}

func eventOf(r *kigov1.ExecuteResponse) event {
	switch e := r.GetEvent().(type) {
	case *kigov1.ExecuteResponse_Started:
		return event{kind: startedEvent, requestID: e.Started.GetRequestId(), prompt: int(e.Started.GetPromptTokens())}
	case *kigov1.ExecuteResponse_Tokens:
		return event{kind: tokensEvent, index: int(e.Tokens.GetIndex()), ids: len(e.Tokens.GetIds())}
	case *kigov1.ExecuteResponse_Metrics:
		return event{kind: metricsEvent}
	case *kigov1.ExecuteResponse_End:
		return event{kind: endEvent, generated: int(e.End.GetGeneratedTokens()), stop: e.End.GetStopReason()}
	}
	return event{}
}
