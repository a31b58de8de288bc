package server

import (
	"kigo/engine"
	"kigo/engine/chat"
	"kigo/engine/sample"
	kigov1 "kigo/proto/kigo/v1"
)

// engineRequest is r as the engine takes it. Every default of the API is set
// here. r is valid as far as its own rules go. seed is used where r has none.
func engineRequest(r *kigov1.ExecuteRequest, seed uint64) engine.Request {
	q := engine.Request{
		Model:        r.GetModel(),
		AddSpecial:   orDefault(r.AddSpecial, true),
		ParseSpecial: r.GetParseSpecial(),
		Sampling:     samplingParams(r.GetSampling(), seed),
		MaxTokens:    int(r.GetMaxTokens()),
		Samples:      int(r.GetN()),
		Stop:         r.GetStop(),
		StopIDs:      r.GetStopIds(),
		Logprobs:     int(orDefault(r.Logprobs, -1)),

		PromptLogprobs: int(orDefault(r.PromptLogprobs, -1)),
		Priority:       priorityClass(int(r.GetPriority())),
	}
	switch p := r.GetPrompt().(type) {
	case *kigov1.ExecuteRequest_Text:
		q.Text = p.Text
	case *kigov1.ExecuteRequest_Chat:
		q.Messages = chatMessages(p.Chat)
	case *kigov1.ExecuteRequest_Tokens:
		q.Tokens = p.Tokens.GetIds()
	}
	return q
}

// priorityClass is the engine's priority, -4 to 3, of the API's -100 to 100: equal
// parts, and 0 alone is 0.
func priorityClass(priority int) int {
	switch {
	case priority > 0:
		return 1 + (priority-1)*engine.MaxPriority/100
	case priority < 0:
		return -1 + (priority+1)*-engine.MinPriority/100
	}
	return 0
}

// samplingParams is s with the engine's defaults for what it leaves unset.
func samplingParams(s *kigov1.Sampling, seed uint64) sample.Params {
	p := sample.Defaults()
	p.Seed = seed
	if s == nil {
		return p
	}
	p.Temperature = orDefault(s.Temperature, p.Temperature)
	p.TopK = int(orDefault(s.TopK, int32(p.TopK)))
	p.TypicalP = orDefault(s.TypicalP, p.TypicalP)
	p.TopP = orDefault(s.TopP, p.TopP)
	p.MinP = orDefault(s.MinP, p.MinP)
	p.RepetitionPenalty = orDefault(s.RepetitionPenalty, p.RepetitionPenalty)
	p.PresencePenalty = orDefault(s.PresencePenalty, p.PresencePenalty)
	p.FrequencyPenalty = orDefault(s.FrequencyPenalty, p.FrequencyPenalty)
	p.PenaltyLastN = int(orDefault(s.PenaltyLastN, int32(p.PenaltyLastN)))
	p.Seed = orDefault(s.Seed, seed)
	p.MinTokens = int(orDefault(s.MinTokens, int32(p.MinTokens)))
	p.IgnoreEnd = orDefault(s.IgnoreEnd, p.IgnoreEnd)
	for _, b := range s.GetLogitBias() {
		p.LogitBias = append(p.LogitBias, sample.Bias{Token: b.GetToken(), Value: b.GetValue()})
	}
	return p
}

func chatMessages(c *kigov1.Chat) []chat.Message {
	messages := make([]chat.Message, len(c.GetMessages()))
	for i, m := range c.GetMessages() {
		messages[i] = chat.Message{Role: m.GetRole(), Content: m.GetContent()}
	}
	return messages
}

// orDefault is what p points to, or def where the caller set nothing.
func orDefault[T any](p *T, def T) T {
	if p == nil {
		return def
	}
	return *p
}
