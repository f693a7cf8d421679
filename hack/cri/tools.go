//go:build tools

// Package cri pins crictl, a client of containerd's CRI that hack/test drives, and critest, the tests that every
// implementation of CRI should pass, which hack/test-stock runs.
package cri

import (
	_ "sigs.k8s.io/cri-tools/cmd/crictl"
	_ "sigs.k8s.io/cri-tools/pkg/benchmark"
	_ "sigs.k8s.io/cri-tools/pkg/validate"
)
