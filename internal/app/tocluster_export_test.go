package app

// InSteps has a move publish and note so many records at once.
func (o MoveOptions) InSteps(records int) MoveOptions {
	o.batch = records
	return o
}
