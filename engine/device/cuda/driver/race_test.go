//go:build race && linux && (amd64 || arm64) && !nocuda

package driver

const raceDetector = true // sync.Pool drops things on purpose under it
