package resources

import "log/slog"

func newDriver(s Spec, log *slog.Logger) (Driver, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	switch s.Kind {
	case KindSystemd:
		return newSystemd(s, log), nil
	case KindProcess:
		return newProcess(s, log)
	default:
		return newScript(s, log), nil
	}
}
