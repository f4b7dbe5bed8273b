"""What the tests expect was worked out in fp32 on a CPU: a GPU, where there is one, is hidden from them."""
import os

os.environ["CUDA_VISIBLE_DEVICES"] = ""
