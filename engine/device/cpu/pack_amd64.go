package cpu

import "golang.org/x/sys/cpu"

// transposes says whether the functions here may be called. They move one plane
// between 16 rows of a file, rowBytes apart, and a panel: n blocks, step bytes
// apart, of so many units of 16 (four of 4), 4 or 2 bytes.
var transposes = cpu.X86.HasAVX2

//go:noescape
func transpose16(plane, file *byte, rowBytes, n, step, units int)

//go:noescape
func untranspose16(file, plane *byte, rowBytes, n, step, units int)

//go:noescape
func transpose4(plane, file *byte, rowBytes, n, step, units int)

//go:noescape
func untranspose4(file, plane *byte, rowBytes, n, step, units int)

//go:noescape
func transpose2(plane, file *byte, rowBytes, n, step, units int)

//go:noescape
func untranspose2(file, plane *byte, rowBytes, n, step, units int)

// transpose moves a plane, in the largest units that it has.
func (l *plane) transpose(file, panel []byte, rowBytes int, out bool) {
	n := (rowBytes + l.step - l.size - l.from) / l.step
	f, p := &file[l.from], &panel[l.at]
	switch {
	case l.unit == 2 && out:
		untranspose2(f, p, rowBytes, n, l.step, l.size/2)
	case l.unit == 2:
		transpose2(p, f, rowBytes, n, l.step, l.size/2)
	case l.size%16 == 0 && out:
		untranspose16(f, p, rowBytes, n, l.step, l.size/16)
	case l.size%16 == 0:
		transpose16(p, f, rowBytes, n, l.step, l.size/16)
	case out:
		untranspose4(f, p, rowBytes, n, l.step, l.size/4)
	default:
		transpose4(p, f, rowBytes, n, l.step, l.size/4)
	}
}
