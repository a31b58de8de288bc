// Kigo serves language models over gRPC.
package main

import (
	"os"

	"kigo/server/cli"
)

func main() { os.Exit(cli.Main()) }
