//! What every store must do, whatever is behind its URL. The same functions run over a directory, over memory and,
//! in the integration tests, over real servers.
