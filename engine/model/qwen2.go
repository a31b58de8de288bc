package model

import "kigo/engine/device"

// qwen2 is Qwen2 and Qwen2.5: llama with biases on queries, keys and values,
// and the two halves of a head rotated against each other.
func qwen2(r *reader) Spec {
	s := r.transformer()
	s.RopeStyle = device.RopeHalves
	s.QKVBias = BiasRequired
	return s
}
