from brac_plus_tf.core.startup import start_tensorflow

start_tensorflow()  # a worker process begins with this import
