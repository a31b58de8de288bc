//go:build !amd64

package cpu

const transposes = false

func (l *plane) transpose(_, _ []byte, _ int, _ bool) { panic("not reached") }
