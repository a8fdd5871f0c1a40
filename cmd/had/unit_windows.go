package main

import (
	"context"
	"errors"
	"fmt"
)

var errWindows = fmt.Errorf("the Windows service is not built yet; run had run in a console: %w", errors.ErrUnsupported)

func reloadUnits(context.Context) error      { return errWindows }
func enableUnit(context.Context, bool) error { return errWindows }
func disableUnit(context.Context) error      { return errWindows }
