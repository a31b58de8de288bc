package cli

import (
	"time"

	"github.com/schollz/progressbar/v3"
)

// progress is a bar on standard error. Where standard error is not a terminal it
// shows nothing.
type progress struct {
	bar   *progressbar.ProgressBar
	total uint64
}

// newProgress makes a bar that counts bytes.
func (a *app) newProgress() *progress {
	return a.newBar(
		progressbar.OptionShowBytes(true),
		progressbar.OptionUseIECUnits(true),
		progressbar.OptionShowTotalBytes(true),
	)
}

// newCounter makes a bar that counts tokens.
func (a *app) newCounter() *progress {
	return a.newBar(progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionSetItsString("tokens"))
}

func (a *app) newBar(more ...progressbar.Option) *progress {
	p := &progress{}
	if isTerminal(a.stderr) {
		p.bar = progressbar.NewOptions64(-1, append([]progressbar.Option{
			progressbar.OptionSetWriter(a.stderr),
			progressbar.OptionThrottle(100 * time.Millisecond),
			progressbar.OptionClearOnFinish(),
			progressbar.OptionSetWidth(30),
			progressbar.OptionFullWidth(),
		}, more...)...)
	}
	return p
}

// Set shows how far a stage has come.
func (p *progress) Set(stage string, done, total uint64) {
	if p.bar == nil {
		return
	}
	if total > 0 && total != p.total {
		p.total = total
		p.bar.ChangeMax64(int64(total))
	}
	p.bar.Describe(stage)
	_ = p.bar.Set64(int64(done)) // a bar that cannot be drawn harms nothing
}

// Close takes the bar from the screen.
func (p *progress) Close() {
	if p.bar != nil {
		_ = p.bar.Clear()
	}
}

// newActivity says on standard error what is being done, one thing after another.
// Where standard error is not a terminal it shows nothing.
func (a *app) newActivity() *progress {
	p := &progress{}
	if isTerminal(a.stderr) {
		p.bar = progressbar.NewOptions(-1,
			progressbar.OptionSetWriter(a.stderr),
			progressbar.OptionSpinnerType(14),
			progressbar.OptionSetElapsedTime(true),
			progressbar.OptionClearOnFinish(),
		)
	}
	return p
}

// Say shows what comes next.
func (p *progress) Say(what string) {
	if p.bar != nil {
		p.bar.Describe(what)
		_ = p.bar.Add(1) // a bar that cannot be drawn harms nothing
	}
}
