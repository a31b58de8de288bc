//go:build race

package server_test

// raceDetector says that the race detector watches: it makes the real model
// about fifty times slower, so that a small one takes its place.
const raceDetector = true
