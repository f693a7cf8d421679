//go:build tools

// Package containerd pins containerd's own client tests and stress test, which hack/test-stock runs.
package containerd

import (
	_ "github.com/containerd/containerd/v2/cmd/containerd-stress"
	_ "github.com/containerd/containerd/v2/integration/client"
)
