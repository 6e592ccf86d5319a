pub fn bars() {}
