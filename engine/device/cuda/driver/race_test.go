//go:build race

package driver

const raceDetector = true // sync.Pool drops things on purpose under it
