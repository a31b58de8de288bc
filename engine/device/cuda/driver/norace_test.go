//go:build !race && linux && (amd64 || arm64) && !nocuda

package driver

const raceDetector = false
