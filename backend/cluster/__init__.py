"""Work for the model in other processes and on other machines, through Ray, where workers are asked for."""
