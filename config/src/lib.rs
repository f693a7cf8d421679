//! Every knob and rule: file, environment, annotations, checked policy.
