package fakedriver

import "syscall"

// thread is the calling OS thread.
func thread() int { return syscall.Gettid() }
