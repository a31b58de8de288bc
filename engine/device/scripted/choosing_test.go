package scripted_test

import (
	"testing"

	"kigo/engine/device"
	"kigo/engine/device/cpu"
	"kigo/engine/device/devicetest"
	"kigo/engine/device/scripted"
)

// The device on which the engine's steps are tested that begin while others are under way
// does what such a device must, and refuses what it must.
func TestStepsAhead(t *testing.T) {
	devicetest.Ahead(t, func(t *testing.T) device.Device {
		d, err := cpu.New(cpu.Config{})
		if err != nil {
			t.Fatal(err)
		}
		return scripted.NewChoosing(d)
	})
}
